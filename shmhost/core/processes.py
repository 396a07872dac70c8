"""A process, as a host notes it for one of later. Pure; `machine.processes` asks the kernel."""

from __future__ import annotations

from shmprotocol.tuples import NamedTuple


class Process(NamedTuple):
    """A process: `namespace` is that of its host, in which `pid` counts.

    `started` is when it was started, in the kernel's ticks; 0: not known.
    """

    pid: int
    started: int
    namespace: int


NOBODY = Process(0, 0, 0)  # of which nothing is known
