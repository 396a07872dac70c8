"""The rows of `make bench` for the host's CPU time: what an attach costs it, by the number of clients."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import ExitStack

import shmclient
from benchmarks.measure import summary
from benchmarks.processes import bare_host, cpu_us, host
from benchmarks.results import FLOOR, OURS, Row

ROUNDS, ATTACHES = 8, 2000


def attach(folder: str, cpu: int, other: int, clients: int) -> Row:
    """Attach and detach, with each of many clients in turn; the floor is the bare host with one client."""
    raise_descriptor_limit()
    with ExitStack() as stack:
        path, pid = stack.enter_context(host(folder, other))
        bare, bare_pid = stack.enter_context(bare_host(folder, other, 4096))
        shms = [stack.enter_context(shmclient.connect(path)) for _ in range(clients)]
        shms[0].put("load", bytes(1024)).close()
        ours, floor = [], []
        for _ in range(ROUNDS):  # in blocks: two hosts in turn would empty each other's caches
            ours.append([_cost(pid, lambda index: shms[index % clients].open("load").close())])
            floor.append([_cost(bare_pid, lambda _: bare())])
    title = f"host CPU of an attach, {clients:,} clients"
    figures = {OURS: summary(ours[1:]), FLOOR: summary(floor[1:])}
    return Row(f"host_cpu/{clients}", title, figures=figures, aim=12.0)


def _cost(pid: int, attach: Callable[[int], object]) -> float:
    """Return the CPU time of the process for each of many attaches; the last releases are not waited for."""
    began = cpu_us(pid)
    for index in range(ATTACHES):
        attach(index)
    return (cpu_us(pid) - began) / ATTACHES


def raise_descriptor_limit() -> None:
    """Allow as many open files as the administrator does: a thousand clients have a socket each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
