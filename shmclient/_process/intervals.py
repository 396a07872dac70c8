"""Ranges of addresses that do not overlap, each with a value. Pure; knows nothing of memory.

Whole between any two steps: a destructor that the garbage collector runs inside of a method may call another.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, TypeVar

from shmprotocol.tuples import NamedTuple

T = TypeVar("T")


class Interval(NamedTuple, Generic[T]):
    """A range of `size` bytes from `start`, and what it stands for."""

    start: int
    size: int
    value: T


class Intervals(Generic[T]):
    """A map from ranges of addresses to values.

    `starts` has them in their order, `found` each interval by its start: the fast road changes both, in one
    call in C (holding.c of shmprotocol). Other threads look at them with the lock of the caller.
    """

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.found: dict[int, Interval[T]] = {}

    @property
    def bounds(self) -> tuple[int, int]:
        """The bounds of all ranges together: may be read while another thread adds or removes one."""
        try:
            return self.starts[0], self._end(-1)
        except (IndexError, KeyError):  # the last one has just gone
            return 0, 0

    def add(self, start: int, size: int, value: T) -> None:
        """Add a range, of at least 1 byte, that overlaps no other."""
        assert size > 0
        assert not self.overlapping(start, size)
        self.found[start] = Interval(start, size, value)
        insort(self.starts, start)

    def remove(self, start: int) -> None:
        """Forget the range that starts here; KeyError when there is none."""
        if start not in self.found:
            raise KeyError(start)
        self.discard(start)

    def discard(self, start: int) -> None:
        """Forget the range that starts here, if there is one; also one that Ctrl-C kept from being whole."""
        index = bisect_left(self.starts, start)
        del self.starts[index : bisect_right(self.starts, start)]
        self.found.pop(start, None)

    def starting(self, start: int) -> T | None:
        """Return the value of the range that starts here, or None."""
        interval = self.found.get(start)
        return None if interval is None else interval.value

    def at(self, address: int) -> T | None:
        """Return the value of the range that an address lies in, or None."""
        return next((interval.value for interval in self.overlapping(address, 1)), None)

    def overlapping(self, start: int, size: int) -> list[Interval[T]]:
        """Return the ranges that have a byte in common with `size` bytes from `start`, in their order."""
        first = bisect_right(self.starts, start) - 1
        if first < 0 or self._end(first) <= start:
            first += 1
        return [self.found[begin] for begin in self.starts[first : bisect_left(self.starts, start + size)]]

    def _end(self, index: int) -> int:
        interval = self.found[self.starts[index]]
        return interval.start + interval.size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[Interval[T]]:
        return (self.found[start] for start in self.starts)
