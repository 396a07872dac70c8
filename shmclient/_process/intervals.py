"""Ranges of addresses that do not overlap, each with a value. Pure; knows nothing of memory.

Whole between any two steps: a destructor that the garbage collector runs inside of a method may call another.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Interval(NamedTuple, Generic[T]):
    """A range of `size` bytes from `start`, and what it stands for."""

    start: int
    size: int
    value: T


class Intervals(Generic[T]):
    """A map from ranges of addresses to values."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._found: dict[int, Interval[T]] = {}
        self.bounds = (0, 0)  # of all ranges together: may be read while another thread adds or removes one

    def add(self, start: int, size: int, value: T) -> None:
        """Add a range, of at least 1 byte, that overlaps no other."""
        assert size > 0
        assert not self.overlapping(start, size)
        self._found[start] = Interval(start, size, value)
        insort(self._starts, start)
        self._set_bounds()

    def remove(self, start: int) -> None:
        """Forget the range that starts here; KeyError when there is none."""
        if start not in self._found:
            raise KeyError(start)
        self.discard(start)

    def discard(self, start: int) -> None:
        """Forget the range that starts here, if there is one; also one that Ctrl-C kept from being whole."""
        index = bisect_left(self._starts, start)
        del self._starts[index : bisect_right(self._starts, start)]
        self._found.pop(start, None)
        self._set_bounds()

    def starting(self, start: int) -> T | None:
        """Return the value of the range that starts here, or None."""
        interval = self._found.get(start)
        return None if interval is None else interval.value

    def at(self, address: int) -> T | None:
        """Return the value of the range that an address lies in, or None."""
        return next((interval.value for interval in self.overlapping(address, 1)), None)

    def overlapping(self, start: int, size: int) -> list[Interval[T]]:
        """Return the ranges that have a byte in common with `size` bytes from `start`, in their order."""
        first = bisect_right(self._starts, start) - 1
        if first < 0 or self._end(first) <= start:
            first += 1
        return [self._found[begin] for begin in self._starts[first : bisect_left(self._starts, start + size)]]

    def _set_bounds(self) -> None:
        self.bounds = (self._starts[0], self._end(-1)) if self._starts else (0, 0)

    def _end(self, index: int) -> int:
        interval = self._found[self._starts[index]]
        return interval.start + interval.size

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Interval[T]]:
        return (self._found[start] for start in self._starts)
