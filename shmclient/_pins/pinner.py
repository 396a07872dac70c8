"""Pins: the guarantee that a buffer keeps its address while native code holds it.

The design is that of ptrguard, a Go package that became Go's `runtime.Pinner`. A pin holds the buffer itself
(PEP 3118), so that no code can resize, close, unmap or collect it. Addresses are stored into *slots*; `unpin`
zeroes them before it releases the buffers. No call waits: async code can call `unpin` directly.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn
from weakref import WeakValueDictionary

from shmclient._pins.buffers import Buffers
from shmclient._pins.iovec import IoVec, make_iovec
from shmclient._pins.slots import resolve
from shmclient._pointers.check import check_store
from shmclient._process.copying import not_copied
from shmclient._process.fork import INNER, at_fork
from shmclient._process.lock import new_lock
from shmclient._regions.builder import RegionBuilder
from shmprotocol.errors import PinReleased, RegionBusy
from shmprotocol.native.binding import lib

# Held while a slot is written or zeroed, so that no address gets into a slot after its pin has ended. One for
# the process: it is held for a microsecond at a time, and a child of a fork gets it free.
_SLOTS = new_lock()
at_fork(INNER, _SLOTS.acquire, _SLOTS.release)

_stored: dict[int, Pinned] = {}  # for each slot that holds an address, the pin that stored it last

_logger = logging.getLogger(__name__)


class Pinned:
    """A pinned buffer: it stays where it is until `unpin`, here or of its Pinner.

    After that every use of it raises PinReleased. An empty buffer has the address 0.
    """

    def __init__(self) -> None:
        raise TypeError("a Pinned has no constructor: use pinner.pin(obj)")

    def _start(self, owner: dict[Pinned | IoVec, None], obj: object) -> None:
        self._buffers = Buffers((obj,))
        self._address, self._size = self._buffers.entry(0)
        self._owner = owner
        self._slots: dict[
            int, tuple[Any, int]
        ] = {}  # address -> what keeps it, and the process it is shared by
        owner[self] = None

    @property
    def address(self) -> int:
        """The start address."""
        self._check()
        return self._address

    @property
    def size(self) -> int:
        """The size in bytes."""
        self._check()
        return self._size

    @property
    def readonly(self) -> bool:
        """Whether native code must not write to it."""
        self._check()
        return self._buffers.is_read_only

    def store(self, slot: Any, part: str | int | None = None) -> None:
        """Write the address into a slot, with one release store; `unpin` will zero it.

        A slot is a pointer to a pointer of cffi (`void **`), a pointer of ctypes, or the address of 8 bytes
        in a region under construction; or a `part` of a cffi or ctypes object: the name of a structure's
        field, the index in an array of pointers. The owner of its memory is kept until `unpin`, and so is a
        region. cffi does not tell who owns a pointer from `ffi.addressof` or `ffi.cast`: see to it yourself.

        TypeError: no slot, or not at a multiple of 8. PointerEscapes: the slot is in shared memory, and what
        is pinned is not, or may go first; see `unchecked`. PinReleased: it is unpinned.
        """
        address, owner = resolve(slot, part)
        memory = check_store(address, self.address, self._size)
        with _SLOTS:
            self._check()
            former = _stored.get(address)
            if former is not None:
                former._slots.pop(address, None)  # the slot is this pin's from now on
            # A child of a fork must not zero a slot that it shares with its parent.
            self._slots[address] = (owner, 0) if memory is None else ((owner, memory.kept), os.getpid())
            _stored[address] = self
            lib.shm_slot_store(address, self._address)

    def unpin(self) -> None:
        """Zero the slots that still hold it, and then release it. May be called again."""
        with _SLOTS:
            first, last = self._address, self._address + self._size
            for address, (_kept, process) in list(self._slots.items()):
                if process in (0, os.getpid()):
                    lib.shm_slot_clear(address, first, last)
                if _stored.get(address) is self:
                    del _stored[address]
            released = self._owner.pop(self, self) is None  # only now: an exception before this loses no slot
            self._slots = {}
        if released:
            self._buffers.release()

    def _overlaps(self, start: int, end: int) -> bool:
        """Whether it has a byte in a range of addresses."""
        return self._buffers.overlap(start, end)

    def _check(self) -> None:
        if self not in self._owner:
            raise PinReleased(
                f"the pin of {self._size} bytes at {self._address:#x} is released: what was there may be "
                "gone. Pin it again, or unpin later"
            )

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the data, and pin it in the other process")

    def __repr__(self) -> str:
        state = "" if self in self._owner else ", released"
        return f"<Pinned {self._size} bytes at {self._address:#x}{state}>"


@dataclass(frozen=True, slots=True)
class Leak:
    """A Pinner that was collected while it held pins, and where it was made."""

    filename: str
    line: int
    pins: int

    def __str__(self) -> str:
        return (
            f"a Pinner made at {self.filename}:{self.line} was collected with {self.pins} pins: they "
            "are kept for ever. Call unpin(), or use it in a `with` block"
        )


def report_leak(leak: Leak) -> None:
    """Warn with a ResourceWarning at the line that made the Pinner, and log it."""
    _logger.warning("%s", leak)
    warnings.warn_explicit(str(leak), ResourceWarning, leak.filename, leak.line)


on_leak: Callable[[Leak], None] = report_leak  # called for each leak, on any thread; assign your own
_leaked: list[dict[Pinned | IoVec, None]] = []
_pinners: WeakValueDictionary[int, Pinner] = WeakValueDictionary()  # by id


def leaked() -> int:
    """Return the number of leaked pins so far: each keeps its buffer for ever."""
    return sum(map(len, _leaked))


def check_unpinned(builder: RegionBuilder) -> None:
    """RegionBusy when part of a region under construction is pinned, or holds the address of a pin.

    Native code may be writing through the one, and `unpin` will write to the other: both would be SIGSEGV
    once the region is sealed.
    """
    start, end = builder.address, builder.address + builder.capacity
    owners = [pinner._pins for pinner in list(_pinners.values())] + _leaked
    pins = sum(pin._overlaps(start, end) for owner in owners for pin in list(owner))
    slots = sum(start <= slot < end for slot in list(_stored))
    if pins or slots:
        raise RegionBusy(
            f"{pins} pins of {builder.name!r} live, and {slots} slots in it hold the address of a pin: unpin "
            "before the block ends, or create the region with seal='writer'"
        )


class Pinner:
    """Pins any number of buffers, and unpins them at once. Can be used again, and by several threads.

    A `with` block (sync or async) unpins at its end. A Pinner that is collected with pins is a leak: it is
    reported through `on_leak`, and the pins stay in force, so that nothing dangles; with `strict`, the
    process ends by SIGABRT after that. Pins are not recursive: buffers that a pinned buffer points to need
    their own pins.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self._pins: dict[Pinned | IoVec, None] = {}
        _pinners[id(self)] = self
        self._strict = strict
        self._process = os.getpid()
        caller = sys._getframe(1)
        self._made_at = (caller.f_code.co_filename, caller.f_lineno)

    def pin(self, obj: object) -> Pinned:
        """Pin a buffer: when this returns, it cannot move, shrink, close or be collected.

        Takes bytes, bytearray, memoryview, ndarray, mmap, array, ctypes and other objects with a contiguous
        buffer; a region (all `capacity` bytes, from its header on; its mapping and lease are kept), a
        builder (its payload, which cannot be published while it is pinned), a view of either; and cffi
        pointers, arrays and structures, which keep what they own. TypeError: none of these. BufferError: not
        contiguous.
        """
        pin = Pinned.__new__(Pinned)
        pin._start(self._pins, obj)
        return pin

    def pin_graph(self, obj: Any) -> Any:
        """Pin every buffer in nested dicts, lists and tuples; return the same structure with their pins.

        Pointers inside a buffer are not followed: only a region keeps the targets of its pointers. Errors
        are as for `pin`; earlier pins stay.
        """
        if isinstance(obj, dict):
            return {key: self.pin_graph(value) for key, value in obj.items()}
        if isinstance(obj, (list, tuple)):
            pins = [self.pin_graph(value) for value in obj]
            make = getattr(obj, "_make", type(obj))  # a named tuple takes its values one by one
            return make(pins)
        return self.pin(obj)

    def iovec(self, buffers: Iterable[object]) -> IoVec:
        """Pin any number of buffers as one `struct iovec` array; with an error, as for `pin`, none."""
        return make_iovec(self._pins, tuple(buffers))

    def unpin(self) -> None:
        """Zero all slots, and release all pins made so far. May be called again, or without any pin.

        BufferError: a buffer is in a `readv` or `writev` of another thread; all others are released.
        """
        busy: BufferError | None = None
        pins = list(self._pins)
        for pin in pins:
            try:
                pin.unpin()
            except BufferError as error:
                busy = error
        try:
            if busy is not None:
                raise busy
        finally:
            del busy  # its traceback has this frame: a cycle, which would keep the pins

    def __len__(self) -> int:
        return len(self._pins)

    def __bool__(self) -> bool:
        return True

    def __enter__(self) -> Pinner:
        return self

    def __exit__(self, *_: object) -> None:
        self.unpin()

    async def __aenter__(self) -> Pinner:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.unpin()

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the data, and pin it in the other process")

    def __repr__(self) -> str:
        return f"<Pinner with {len(self._pins)} pins>"

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        pins = getattr(self, "_pins", None)
        if not pins or is_finalizing() or self._process != os.getpid():
            return
        _leaked.append(pins)
        try:
            on_leak(Leak(*self._made_at, len(pins)))
        finally:
            if self._strict:
                os.abort()
