"""The address plan: each window of a fleet is cut into slices, and a host hands out of its own. Pure.

All hosts have the same windows, so that a region lies at one address wherever it is. Slice `n` of a host is
part `n` of each window. Foreign addresses can only be claimed, one by one, for replicas of what lies there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shmhost.core.window import GUARD, STEP, Allocator, Span, Window, span_size
from shmprotocol.errors import InvalidArgument, QuotaExceeded

MAX_SLICES = 4096  # a slice of the smallest default window is 64 MiB then
Windows = tuple[tuple[int, int], ...]


def parts_of(window: tuple[int, int], count: int) -> list[Span]:
    """Return the slices of one window, all of the same size; what is left over at its end is unused."""
    base, size = window
    part = size // count // STEP * STEP
    return [Span(base + number * part, part) for number in range(count)]


def slice_of(windows: Windows, count: int, span: Span) -> int | None:
    """Return the slice that all of a span lies in; None if it lies in no slice, or in two."""
    for base, size in windows:
        if base <= span.address < base + size:
            part = size // count // STEP * STEP
            number = (span.address - base) // part
            return number if number < count and span.end <= base + (number + 1) * part else None
    return None


def check_slices(windows: Windows, count: int) -> int:
    """Return a number of slices that these windows can be cut into, or raise InvalidArgument."""
    if not 1 <= count <= MAX_SLICES:
        raise InvalidArgument(f"slices is a number from 1 to {MAX_SLICES}, not {count}")
    for base, size in windows:
        if size // count < 2 * STEP:
            raise InvalidArgument(
                f"{count} slices of the window {base:#x}, {size} bytes, are under {2 * STEP} bytes each: "
                "use fewer slices, or a larger --window"
            )
    return count


class SlicedWindow(Window):
    """A window of which only some slices are handed out of: the own ones, of which one is in use.

    The free ranges of the base class are those of foreign slices. It says it is the whole window, as headers
    and clients know it.
    """

    def __init__(self, base: int, size: int, count: int, choose: Callable[[int], int]) -> None:
        super().__init__(base, size)
        self._parts = parts_of((base, size), count)
        self._choose = choose
        self._own: dict[int, Window] = {}
        self._active: Window | None = None

    def is_free(self, number: int) -> bool:
        """Whether no address of a slice is in use."""
        part = self._parts[number]
        if number in self._own:
            return self._own[number].free() == part.size
        if not super().claim(part):
            return False
        super().give(part)
        return True

    def use(self, number: int | None) -> None:
        """Hand out of this slice from now on, whose addresses are free; None: of none."""
        if number is None:
            self._active = None
            return
        if number not in self._own:
            part = self._parts[number]
            is_free = super().claim(part)
            assert is_free, f"slice {number} at {part.address:#x} is in use"
            skip = self._choose(part.size // STEP) * STEP
            self._own[number] = Window(part.address, part.size, skip)
        self._active = self._own[number]

    def take(self, size: int) -> Span | None:
        """Take `size` bytes of the slice in use."""
        return self._active.take(size) if self._active is not None else None

    def claim(self, span: Span) -> bool:
        """Take just these addresses, in whichever slice."""
        owner = self._owner(span.address)
        if owner is None:
            return super().claim(span)
        return span.end <= owner.base + owner.size and owner.claim(span)

    def give(self, span: Span) -> None:
        """Give a span back."""
        owner = self._owner(span.address)
        if owner is None:
            super().give(span)
        else:
            owner.give(span)

    def free(self) -> int:
        """Return the bytes that are free in the slice in use."""
        return self._active.free() if self._active is not None else 0

    def _owner(self, address: int) -> Window | None:
        return next((window for window in self._own.values() if address in window), None)


class SlicedAllocator(Allocator):
    """Spans out of the slice that a host has of each window."""

    def __init__(self, windows: Windows, count: int, choose: Callable[[int], int] = lambda _: 0) -> None:
        super().__init__(windows)
        self.sliced: Sequence[SlicedWindow] = [
            SlicedWindow(base, size, count, choose) for base, size in windows
        ]
        self.windows: tuple[Window, ...] = tuple(self.sliced)
        self.count = count
        self.own: set[int] = set()  # the slices that this host has handed out of
        self._held: int | None = None
        self.largest: int = max(parts_of(window, count)[0].size for window in windows) - GUARD
        self._reason = "this host has not joined its fleet yet"

    def is_free(self, number: int) -> bool:
        """Whether no address of a slice is in use here, neither for a region nor for a replica."""
        return all(window.is_free(number) for window in self.sliced)

    def use(self, number: int | None, reason: str = "") -> None:
        """Hand out of this slice from now on; None: of none, for a reason that refusals say."""
        for window in self.sliced:
            window.use(number)
        self._held, self._reason = number, reason
        if number is not None:
            self.own.add(number)

    def claim_at(self, address: int, capacity: int) -> tuple[Span, Window]:
        """Take a span at an address that its creator asks for; InvalidArgument also for foreign slices."""
        windows = tuple(window.range for window in self.sliced)
        number = slice_of(windows, self.count, Span(address, span_size(capacity)))
        if number is not None and number != self._held:
            raise InvalidArgument(
                f"{capacity} bytes at {address:#x} are in slice {number} of the fleet, and this host has "
                f"{'none' if self._held is None else self._held}: ask the host that has that slice "
                "(`shmhost fleet`), or take any address"
            )
        return super().claim_at(address, capacity)

    def take(self, capacity: int) -> tuple[Span, Window] | None:
        """Take a span; QuotaExceeded if this host has no slice now."""
        if self._reason:
            raise QuotaExceeded(f"no address can be given: {self._reason}. `shmhost fleet` shows the slices")
        return super().take(capacity)
