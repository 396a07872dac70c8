"""Addresses: the free ranges of the windows. Pure arithmetic; maps no memory.

A region gets whole 2 MiB steps and at least one page more than it needs: that page stays unmapped, so
that a read past the end of a region faults and never reaches its neighbour.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

from shmprotocol.kernel.constants import MIB

STEP = 2 * MIB  # the size of a huge page: a region can be backed by them without moving
GUARD = 4096  # one page, the least that the kernel can leave unmapped


@dataclass(frozen=True, slots=True)
class Span:
    """A range of addresses, in bytes: [address, address + size)."""

    address: int
    size: int

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.size


def span_size(capacity: int) -> int:
    """Return the bytes of address space that a region of this capacity takes, its guard included."""
    return (capacity + GUARD + STEP - 1) // STEP * STEP


class Window:
    """The free ranges of one window.

    Next fit: the search goes on from where the last one ended, so that an address is used again as late
    as possible, and a stale pointer meets unmapped memory rather than a stranger's region. The first one
    starts `skip` bytes behind the base, a multiple of STEP.
    """

    def __init__(self, base: int, size: int, skip: int = 0) -> None:
        self.base = base
        self.size = size
        self._starts = [base]  # of the free ranges, sorted; `_sizes` beside it
        self._sizes = [size]
        self._free = size
        self._next = base + skip

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size

    def take(self, size: int) -> Span | None:
        """Take `size` bytes, a multiple of STEP; None when no free range is large enough."""
        count = len(self._starts)
        first = max(bisect.bisect_right(self._starts, self._next) - 1, 0)
        # The range where the last search ended is looked at twice: behind that point, and last of all whole.
        for offset in range(count + 1 if count else 0):
            index = (first + offset) % count
            start = self._start(index, from_next=offset == 0)
            if self._starts[index] + self._sizes[index] - start >= size:
                return self._cut(index, Span(start, size))
        return None

    def give(self, span: Span) -> None:
        """Give a span back and join it with its free neighbours."""
        self._free += span.size
        index = bisect.bisect(self._starts, span.address)
        start, end = span.address, span.end
        if index < len(self._starts) and self._starts[index] == end:
            end += self._remove(index)
        if index and self._starts[index - 1] + self._sizes[index - 1] == start:
            start = self._starts[index - 1]
            self._remove(index - 1)
            index -= 1
        self._starts.insert(index, start)
        self._sizes.insert(index, end - start)

    def free(self) -> int:
        """Return the bytes that are free."""
        return self._free

    def _start(self, index: int, *, from_next: bool) -> int:
        start = self._starts[index]
        end = start + self._sizes[index]
        return self._next if from_next and start < self._next < end else start

    def _cut(self, index: int, span: Span) -> Span:
        low, end = self._starts[index], self._starts[index] + self._sizes[index]
        self._remove(index)
        for start, stop in ((span.end, end), (low, span.address)):
            if stop > start:
                self._starts.insert(index, start)
                self._sizes.insert(index, stop - start)
        self._next = span.end
        self._free -= span.size
        return span

    def _remove(self, index: int) -> int:
        del self._starts[index]
        return self._sizes.pop(index)


class Allocator:
    """Spans out of several windows: a later one is used when the earlier ones are full.

    `choose(n)` returns a number below n, which sets the start. A host chooses at random: clients of its
    predecessor may still have regions mapped, and two regions at one address conflict.
    """

    def __init__(
        self, windows: tuple[tuple[int, int], ...], choose: Callable[[int], int] = lambda _: 0
    ) -> None:
        self.windows: tuple[Window, ...] = tuple(
            Window(base, size, choose(size // STEP) * STEP) for base, size in windows
        )
        self.largest: int = (
            max(size for _, size in windows) - GUARD
        )  # capacity of a region in an empty window

    def take(self, capacity: int) -> tuple[Span, Window] | None:
        """Take a span for a region of this capacity; None when no window has room."""
        for window in self.windows:
            span = window.take(span_size(capacity))
            if span is not None:
                return span, window
        return None

    def give(self, span: Span) -> None:
        """Give a span back. The caller has made sure that its region has no leases."""
        next(window for window in self.windows if span.address in window).give(span)
