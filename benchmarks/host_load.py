"""The rows of `make bench` for the host's CPU time: what an attach costs it, by the number of clients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import shmclient
from benchmarks.machine import raise_descriptor_limit
from benchmarks.measure import summary
from benchmarks.processes import bare_attach, bare_host, connected, cpu_us, host
from benchmarks.results import FLOOR, OURS, Row

ROUNDS, ATTACHES = 8, 2000


def attach(folder: str, cpu: int, other: int, clients: int) -> Row:
    """Attach and detach, with each of many clients in turn; the floor is the bare host."""
    raise_descriptor_limit()
    with ExitStack() as stack:
        path, pid = stack.enter_context(host(folder, other))
        bare_path, bare_pid = stack.enter_context(bare_host(folder, other))
        socks = [stack.enter_context(connected(bare_path)) for _ in range(clients)]
        bare = [bare_attach(folder, sock, 8192) for sock in socks]
        shms = [stack.enter_context(shmclient.connect(path)) for _ in range(clients)]
        shms[0].put("load", bytes(1024)).close()
        ours, floor = [], []
        for _ in range(ROUNDS):  # in blocks: two hosts in turn would empty each other's caches
            ours.append([_cost(pid, lambda index: shms[index % clients].open("load").close())])
            floor.append([_cost(bare_pid, lambda index: bare[index % clients]())])
    title = f"host CPU of an attach, {clients:,} clients"
    figures = {OURS: summary(ours[1:]), FLOOR: summary(floor[1:])}
    return Row(f"host_cpu/{clients}", title, figures=figures, aim=12.0)


def _cost(pid: int, attach: Callable[[int], object]) -> float:
    """Return the CPU time of the process for each of many attaches; the last releases are not waited for."""
    began = cpu_us(pid)
    for index in range(ATTACHES):
        attach(index)
    return (cpu_us(pid) - began) / ATTACHES
