"""The leftovers of a test: in its host, and in this process. Knows no pytest."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Hashable, Iterator, Mapping

from shmhost.testing.process import HostProcess
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.errors import HostGone
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import State
from shmprotocol.wire.query import Query

SETTLING_S = 5.0  # a client's end reaches the host a moment later; † 40 ms at most beside busy processes
PAUSE_S = 0.002

Things = Mapping[Hashable, str]


class Leftovers:
    """The state of one moment, to see later what has come since.

    `names`: also published regions, which are not a leak of a test that has the host for itself.
    """

    def __init__(self, host: HostProcess, *, names: bool, empty: bool = False) -> None:
        self._host = host
        self._names = names
        self._before: Things = {} if empty else self._things()

    def since(self) -> list[str]:
        """Return a line for each thing that has come since and stays: waits for what is about to go.

        A host that is stopped goes on.
        """
        gc.collect()
        self._host.cont()
        end = time.monotonic() + SETTLING_S
        while (left := self._new()) and time.monotonic() < end:
            time.sleep(PAUSE_S)
        return sorted(left.values())

    def _new(self) -> Things:
        if "shmprotocol.native.builtins" in sys.modules:
            from shmprotocol.native.builtins import flush_late

            flush_late()  # what a client in this process gives back with its next request
        things = self._things()
        return {key: text for key, text in things.items() if key not in self._before}

    def _things(self) -> Things:
        return {**dict(_in_host(self._host, self._names)), **dict(_in_process(*self._host.window))}


def _in_host(host: HostProcess, names: bool) -> Iterator[tuple[Hashable, str]]:
    try:
        with Query(host.socket_path, client="shmhost.testing") as query:
            for inspection in query.inspect(""):
                yield from _of_region(inspection, names)
            for number in range(1, query.measure().clients):  # without this one
                yield ("client", number), f"a client is connected ({number} in all): close it"
    except HostGone:  # the test has killed it
        return


def _of_region(inspection: m.Inspection, names: bool) -> Iterator[tuple[Hashable, str]]:
    info, holders = inspection
    what = "arena" if info.kind == KIND_ARENA else "region"
    if info.state == State.CREATING:
        yield ("creation", info.region), f"region {info.name!r} is being created: leave its builder"
    elif info.state == State.CURRENT and info.arena.has_owner:
        yield ("owner", info.region), f"arena {info.name!r} has its owner: close it"
    elif info.state == State.CURRENT and names:
        yield ("name", info.region), f"{what} {info.name!r} generation {info.generation}: unlink it"
    for holder in holders:
        text = f"a lease of {what} {info.name!r} generation {info.generation}, of pid {holder.pid}"
        yield ("lease", info.region, holder.lease), f"{text}: drop its views, close its handle"


def _in_process(base: int, size: int) -> Iterator[tuple[Hashable, str]]:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        lines = [line.split(maxsplit=5) for line in maps if "shmhost:" in line]
    for fields in lines:
        start, end = (int(number, 16) for number in fields[0].split("-"))
        if base <= start < base + size and "board:shmhost" not in fields[5]:
            label = _label(fields[5])
            yield (
                ("mapping", start),
                f"a mapping of {label}, {end - start} bytes at {start:#x}: drop its views",
            )
    for name in os.listdir("/proc/self/fd"):
        yield from _of_descriptor(name)


def _of_descriptor(name: str) -> Iterator[tuple[Hashable, str]]:
    try:
        target, inode = os.readlink(f"/proc/self/fd/{name}"), os.stat(f"/proc/self/fd/{name}").st_ino
    except OSError:  # another thread closed it
        return
    if "shmhost:" in target and "board:shmhost" not in target:
        yield ("descriptor", name, inode), f"descriptor {name} of {_label(target)}: close its handle"


def _label(path: str) -> str:
    return path.strip().removesuffix(" (deleted)").rpartition("shmhost:")[2] or path.strip()
