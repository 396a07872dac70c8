"""Addresses: the free ranges of the windows. Pure arithmetic; maps no memory.

A region gets whole 2 MiB steps and at least one page more than it needs: that page stays unmapped, so
that a read past the end of a region faults and never reaches its neighbour.
"""

from __future__ import annotations

from collections.abc import Callable

from shmhost.core.ranges import Ranges
from shmprotocol.errors import AddressConflict, InvalidArgument
from shmprotocol.kernel.constants import MIB
from shmprotocol.tuples import NamedTuple

STEP = 2 * MIB  # the size of a huge page: a region can be backed by them without moving
GUARD = 4096  # one page, the least that the kernel can leave unmapped


class Span(NamedTuple):
    """A range of addresses, in bytes: [address, address + size)."""

    address: int
    size: int

    @property
    def end(self) -> int:
        """The first address after it."""
        return self.address + self.size


class AddressTaken(AddressConflict):
    """Some of the addresses that a creator asks for are not free."""

    def __init__(self, span: Span) -> None:
        super().__init__(f"{span.size} bytes at {span.address:#x} are not free")
        self.span = span


def span_size(capacity: int) -> int:
    """Return the bytes of address space that a region of this capacity takes, its guard included."""
    return (capacity + GUARD + STEP - 1) // STEP * STEP


class Window:
    """The free ranges of one window.

    Next fit: the search goes on from where the last one ended, so that an address is used again as late
    as possible, and a stale pointer meets unmapped memory rather than a stranger's region. The first one
    starts `skip` bytes behind the base, a multiple of STEP.

    The free bytes behind the end of the last search are kept apart, as most searches end there at once; and
    so is what came back last, as most spans come back in the order in which they were taken.
    """

    def __init__(self, base: int, size: int, skip: int = 0) -> None:
        self.base = base
        self.size = size
        self.range: tuple[int, int] = base, size
        self._ranges = Ranges()  # the free ones, but for the two that follow
        self._back, self._back_end = base, base  # what came back last
        self._next, self._room = (
            base + skip,
            size - skip,
        )  # where the last search ended, and what is free there
        if skip:
            self._ranges.add(base, skip)
        self._free = size

    def __contains__(self, address: int) -> bool:
        return self.base <= address < self.base + self.size

    def take(self, size: int) -> Span | None:
        """Take `size` bytes, a multiple of STEP; None when no free range is large enough."""
        start = self._next
        if size > self._room:
            return self._search(size)
        self._next, self._room = start + size, self._room - size
        self._free -= size
        return tuple.__new__(Span, (start, size))  # half the time of Span(start, size)

    def claim(self, span: Span) -> bool:
        """Take just these addresses; False if not all are free. The next search begins where it would."""
        self._gather()
        free = self._ranges.at(span.address)
        if free is None or sum(free) < span.end:
            return False
        low, end = free[0], sum(free)
        self._ranges.remove(low)
        if span.address > low:
            self._ranges.add(low, span.address - low)
        if end > span.end:
            self._ranges.add(span.end, end - span.end)
        self._free -= span.size
        return True

    def give(self, span: Span) -> None:
        """Give a span back and join it with its free neighbours."""
        start, size = span
        self._free += size
        if start != self._back_end:
            self._gather_back()
            self._back = start
        self._back_end = start + size

    def free(self) -> int:
        """Return the bytes that are free."""
        return self._free

    def _gather(self) -> None:
        """Have all that is free among the ranges."""
        self._gather_back()
        if self._room:
            self._ranges.join(self._next, self._room)
            self._room = 0

    def _gather_back(self) -> None:
        if self._back < self._back_end:
            self._ranges.join(self._back, self._back_end - self._back)
        self._back = self._back_end

    def _search(self, size: int) -> Span | None:
        self._gather()
        last = self._ranges.at(self._next)  # where the last search ended
        above = -1
        if last is not None:
            above, end = last[0], last[0] + last[1]
            if self._next <= end - size:
                return self._cut(last, Span(self._next, size))
        # The range where the last search ended comes once more, whole, and last of all.
        fit = self._ranges.fit(above, size) or self._ranges.fit(-1, size)
        return self._cut(fit, Span(fit[0], size)) if fit is not None else None

    def _cut(self, free: tuple[int, int], span: Span) -> Span:
        low, end = free[0], sum(free)
        self._ranges.remove(low)
        if span.address > low:
            self._ranges.add(low, span.address - low)
        self._next, self._room = span.end, end - span.end
        self._free -= span.size
        return span


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
        # The capacity of a region in an empty window.
        self.largest: int = max(size for _, size in windows) - GUARD

    def take(self, capacity: int) -> tuple[Span, Window] | None:
        """Take a span for a region of this capacity; None when no window has room."""
        size = span_size(capacity)
        for window in self.windows:
            span = window.take(size)
            if span is not None:
                return span, window
        return None

    def claim(self, span: Span) -> Window | None:
        """Take just these addresses, which a predecessor gave out; None if they are not free in a window."""
        if span.address % STEP or span.size % STEP or span.size < STEP:
            return None
        for window in self.windows:
            if span.address in window and span.end <= window.base + window.size:
                return window if window.claim(span) else None
        return None

    def claim_at(self, address: int, capacity: int) -> tuple[Span, Window]:
        """Take the span for a region of this capacity at an address that its creator asks for.

        InvalidArgument: no region of this host can be there. AddressTaken: something is.
        """
        span = Span(address, span_size(capacity))
        inside = [each for each in self.windows if each.base <= address and span.end <= each.base + each.size]
        if address % STEP or not inside:
            ranges = ", ".join([f"{each.base:#x} with {each.size} bytes" for each in self.windows])
            raise InvalidArgument(
                f"no region of this host can have {span.size} bytes at {address:#x}: regions start at "
                f"multiples of {STEP}, and its windows are {ranges}. Ask a host with the --window of before"
            )
        if not inside[0].claim(span):
            raise AddressTaken(span)
        return span, inside[0]

    def give(self, span: Span) -> None:
        """Give a span back. The caller has made sure that its region has no leases."""
        next(window for window in self.windows if span.address in window).give(span)
