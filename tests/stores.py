"""Where a host is to be killed: at a system call, or behind a store to its state file."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from seizing import FUTEX, Seized

TABLE = 1 << 21  # bytes of it that are looked at: more than hundreds of kills leave there
STEPS = 150_000  # instructions without a store: as many as a whole put
Script = Callable[[Seized], bool]


class Place(NamedTuple):
    """A system call, told by its number: the n-th of these."""

    kind: int
    ordinal: int


class Table:
    """The state file of a host, as it is now."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def read(self) -> bytes:
        """Return its start; nothing, if there is no file."""
        if self._descriptor < 0:
            with contextlib.suppress(FileNotFoundError):
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        data = os.pread(self._descriptor, TABLE, 0) if self._descriptor >= 0 else b""
        assert len(data) < TABLE, "the state file is larger than what is looked at"
        return data

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


# --- where a host is killed: each returns whether it stands there


def at_call(point: int) -> Script:
    """Stop a host at its n-th system call from now on; 0: nowhere."""

    def stop(host: Seized) -> bool:
        host.run(lambda _number: host.calls == point)
        return not host.is_over

    return stop


class Walk:
    """Notes where a host is between its stores to a table, as its system calls pass by."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._before = table.read()
        self._seen = Counter[int]()
        self.place = Place(0, 0)  # behind the last call

    def passes(self, kind: int) -> bool:
        """Take note of a system call, but of futex(2), which come as they like; whether there were stores."""
        if kind != FUTEX:
            self._seen[kind] += 1
            self.place = Place(kind, self._seen[kind])
        return self.has_changed()

    def has_changed(self) -> bool:
        """Whether the table is another than the last time."""
        before, self._before = self._before, self._table.read()
        return before != self._before


def at_store(table: Table, point: Place, number: int) -> Script:
    """Stop a host behind the n-th store to the table that follows a place, before the next system call."""

    def stop(host: Seized) -> bool:
        walk, count, last = Walk(table), 0, 0

        def arrive(kind: int) -> bool:
            walk.passes(kind)
            return kind != FUTEX and walk.place == point

        def look() -> bool:
            nonlocal count, last
            if walk.has_changed():
                count, last = count + 1, host.instructions
            return count == number or host.is_at_call() or host.instructions - last > STEPS

        if point != Place(0, 0):
            host.run(arrive)
        host.step(look)
        if count < number:
            host.go_on()
            host.run(lambda _kind: False)
        return count == number

    return stop


def noting_stores(table: Table, places: list[Place]) -> Script:
    """Stop a host nowhere, and note the places behind which it has written to the table."""

    def stop(host: Seized) -> bool:
        walk = Walk(table)

        def look(kind: int) -> bool:
            last = walk.place
            if walk.passes(kind):
                places.append(last)
            return False

        host.run(look)
        if walk.has_changed():
            places.append(walk.place)
        return False

    return stop


def behind_call(kinds: frozenset[int], ordinal: int) -> Script:
    """Stop a host right behind its n-th system call of these kinds, before it does anything else."""

    def stop(host: Seized) -> bool:
        seen = itertools.count(1)
        host.run(lambda kind: kind in kinds and next(seen) == ordinal)
        if host.is_over:
            return False
        host.step(lambda: True)
        return True

    return stop
