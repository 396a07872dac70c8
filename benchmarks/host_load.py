"""The rows of `make bench` for the host's CPU time: what an attach costs it, by the number of clients."""

from __future__ import annotations

from contextlib import ExitStack, closing

import shmclient
from benchmarks import load
from benchmarks.machine import raise_descriptor_limit
from benchmarks.measure import summary
from benchmarks.processes import bare_host, cpu_us, host
from benchmarks.results import FLOOR, OURS, Row

ROUNDS, ATTACHES = 8, 10_000


def attach(folder: str, cpu: int, other: int, clients: int) -> Row:
    """Attach and detach, with many clients at once; the floor is the bare host with as many."""
    raise_descriptor_limit()
    with ExitStack() as stack:
        path, pid = stack.enter_context(host(folder, other))
        bare_path, bare_pid = stack.enter_context(bare_host(folder, other))
        with shmclient.connect(path) as shm:
            shm.put(load.NAME, bytes(1024)).close()
        ours = stack.enter_context(closing(load.ours(path, clients)))
        bare = stack.enter_context(closing(load.bare(bare_path, clients)))
        ours_us, bare_us = [], []
        for _ in range(ROUNDS):  # in blocks: two hosts in turn would empty each other's caches
            ours_us.append([_cost(pid, ours)])
            bare_us.append([_cost(bare_pid, bare)])
    title = f"host CPU of an attach, {clients:,} clients at once"
    figures = {OURS: summary(ours_us[1:]), FLOOR: summary(bare_us[1:])}
    return Row(f"host_cpu/{clients}", title, figures=figures, aim=12.0)


def _cost(pid: int, clients: load.Load) -> float:
    """Return the CPU time of the process for each of many attaches."""
    began = cpu_us(pid)
    clients.run(ATTACHES)
    return (cpu_us(pid) - began) / ATTACHES
