"""This process's address space: reservations, mappings, and their release.

The state is that of the whole process, because the address space is: two clients that open
the same region share its mapping. Knows no socket and no message.
"""

from __future__ import annotations

import contextlib
import errno
import weakref
from collections.abc import Callable
from typing import Any

from shmclient._process.gate import Gate
from shmclient._process.intervals import Interval, Intervals
from shmclient._process.ranges import Hold, Range
from shmprotocol.errors import AddressConflict, BadRegion, OutOfMemory, ShmError
from shmprotocol.kernel import address_space
from shmprotocol.kernel.address_space import (
    MAP_ANYWHERE,
    MAP_ARENA,
    MAP_RESERVED,
    MAP_SHARED,
    MAP_UNSEALED,
    MAP_WRITABLE,
)
from shmprotocol.native.builtins import Holding, Space
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import origin_of


class Place(NamedTuple):
    """A region that is mapped here; `memory` keeps it, and a lease of it.

    `is_lasting`: it is published, and others have it at this address. It is writable for who builds it until
    it is frozen, with seal="writer" also after that. `identity` is as of a Range.
    """

    address: int
    capacity: int
    label: str
    is_writable: bool
    is_lasting: bool
    memory: Any
    identity: tuple[str, int]
    is_arena: bool


class Buffer(NamedTuple):
    """A mapping: its address, and the buffer that keeps it and can be referenced weakly."""

    address: int
    memory: Any


def region_label(name: str, generation: int) -> str:
    """Return what errors call a region."""
    return f"region {name!r}, generation {generation}"


class AddressSpace:
    """Reservations and mappings. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._reserved: list[tuple[int, int]] = []
        self._ranges: Intervals[Range | Holding] = Intervals()
        self._gate: Gate[Hold | Holding] = Gate(self._give_up)
        # `with space.draining, space.lock:` has every other thread wait that would map something. Inside of
        # it no other lock of this package is waited for, and a fork finds it free.
        self.draining, self.lock = self._gate.draining, self._gate.lock
        # For the fast road. Its mappings are in `_ranges` as Holdings, until somebody here needs a range.
        self.space = Space(
            self._ranges.starts,
            self._ranges.found,
            Interval,
            self._reserved,
            self.lock.acquire,
            self.lock.release,
            self._gate.is_inside,
            self._gate.items,
            self._gate.released,
            self._keep_stuck,
        )

    def reserve(self, windows: tuple[tuple[int, int], ...]) -> None:
        """Reserve windows, as far as this process can.

        A window that a limit forbids (RLIMIT_AS) or in which something lies already stays unreserved:
        each of its regions is then mapped only if its own addresses are free.
        """
        with self._gate.draining, self._gate.lock:
            for base, size in windows:
                if self._is_reserved(base, size):
                    continue
                with contextlib.suppress(AddressConflict):
                    if address_space.reserve(base, size):
                        self._reserved.append((base, size))

    def attach(
        self,
        identity: tuple[str, int],
        descriptor: int,
        address: int,
        capacity: int,
        after: Callable[[], None],
        label: str,
        *,
        unsealed: bool = False,
        arena: bool = False,
        shared: bool = False,
        writable: bool = False,
        anywhere: bool = False,
    ) -> Buffer:
        """Map a published region for reading and return a buffer over it, `capacity` bytes.

        When the last view of the buffer goes, the region is unmapped (unless another buffer needs it),
        and then `after` is called, on whatever thread that is. AddressConflict: something else lives
        there, and `anywhere` was not allowed. BadRegion: not a published region. The descriptor
        stays the caller's, and `after` is not called on an error. `label` is what errors call the region.
        The object of an `arena` may be shorter than `capacity`. A `shared` region is mapped for writing, too,
        with `writable`, unless it is mapped here already, for reading.
        """
        flags = (
            (MAP_UNSEALED if unsealed else 0) | (MAP_ARENA if arena else 0) | (MAP_SHARED if shared else 0)
        )
        request = Range(address, capacity, flags, identity, label, shared and writable, True)
        return self._map(request, descriptor, after, anywhere=anywhere)

    def map_writable(
        self,
        identity: tuple[str, int],
        descriptor: int,
        address: int,
        capacity: int,
        after: Callable[[], None],
        label: str,
        *,
        size: int,
        is_sealed: bool,
        inherited: bool = True,
    ) -> Buffer:
        """Map a region under construction and return a writable buffer, as `attach` does.

        The object must have `size` bytes, for good if it is sealed; BadRegion. With `inherited=False` the
        children of a fork do not get the mapping.
        """
        address_space.check_memory(descriptor, size, is_sealed=is_sealed)
        request = Range(address, capacity, 0, identity, label, True, not inherited)
        request.is_inherited = inherited
        return self._map(request, descriptor, after)

    def freeze(self, address: int, descriptor: int) -> None:
        """Make what `map_writable` mapped at an address read-only, for all its views; they stay.

        A write by a view is SIGSEGV from then on, also in another thread that is at it. `descriptor` was
        opened O_RDONLY, or the object takes no seals; it stays the caller's.
        """
        with self._gate.draining, self._gate.lock:
            mapping = self._ranges.starting(address)
            assert isinstance(mapping, Range)
            address_space.freeze(descriptor, address, mapping.capacity)
            mapping.is_writable = False

    def find(self, address: int) -> Place | None:
        """Return the region of this process that an address lies in, or None."""
        low, high = self._ranges.bounds
        if not low <= address < high:
            return None
        with self._gate.draining, self._gate.lock:
            mapping = self._taken_over(self._ranges.at(address))
            if mapping is None or not mapping.holds:
                return None
            buffer = mapping.buffer() if mapping.buffer is not None else None
            if buffer is None:  # another, older one is what keeps it
                buffer = self._hold(mapping, None)
            is_lasting = mapping.is_published and not mapping.flags & MAP_ANYWHERE
            return Place(
                mapping.address,
                mapping.capacity,
                mapping.label,
                mapping.is_writable,
                is_lasting,
                buffer,
                mapping.identity,
                bool(mapping.flags & MAP_ARENA) or not mapping.is_inherited,  # the second: its owner's
            )

    def is_reserved(self, address: int) -> bool:
        """Whether an address lies in a window that is reserved here."""
        return self._is_reserved(address, 1)

    def _map(
        self, request: Range, descriptor: int, after: Callable[[], None], *, anywhere: bool = False
    ) -> Buffer:
        with self._gate.draining, self._gate.lock:
            mapping = request
            try:
                mapping = self._find(request) or self._map_checked(request, descriptor, anywhere)
                mapping.check_file(descriptor, is_new=mapping is request)
                mapping.label = request.label
                is_writable = request.is_writable and mapping.is_writable
                mapping.is_published = mapping.is_published or request.is_published
                return Buffer(mapping.address, self._hold(mapping, after, is_writable=is_writable))
            except BaseException:
                if not mapping.holds and self._ranges.starting(mapping.address) is mapping:
                    self._unmap(mapping)
                raise

    def _hold(self, mapping: Range, after: Callable[[], None] | None, *, is_writable: bool = False) -> Any:
        """Return one more buffer over a range, whose end calls `after`. With the gate held.

        A reader's buffer is read-only also where the mapping is a builder's, and writable.
        """
        hold = Hold(mapping, after)

        def released() -> None:
            self._gate.submit(hold)

        try:
            mapping.holds.add(hold)
            address, capacity = mapping.address, mapping.capacity
            buffer = address_space.bytes_at(address, capacity, released, is_writable=is_writable)
            mapping.buffer = weakref.ref(buffer)
        except BaseException:
            mapping.holds.discard(hold)
            raise
        return buffer

    def _map_checked(self, request: Range, descriptor: int, anywhere: bool) -> Range:
        try:
            return self._map_new(request, descriptor, anywhere)
        except OSError as error:
            if error.errno not in address_space.NOT_MEMORY or isinstance(error, ShmError):
                raise
            raise BadRegion(f"the host sent another descriptor than one of memory: {error}") from None

    def _map_new(self, request: Range, descriptor: int, anywhere: bool) -> Range:
        """Map a range that was not mapped before, or return what a destructor has mapped meanwhile."""
        address, capacity = request.address, request.capacity
        if self._is_reserved(address, capacity):
            request.flags |= MAP_RESERVED
        flags = request.flags | (MAP_WRITABLE if request.is_writable else 0)
        try:
            # MAP_FIXED over our own reservation would also go over our own mappings: the kernel cannot tell
            # the two apart, so that is looked up in the same call. Two hosts with the same window meet here.
            result = self.space.map(Interval(address, capacity, request), descriptor, flags)
            if result == -errno.EALREADY and (mapping := self._find(request)) is not None:
                return mapping
            address_space.mapped(result, address, capacity, flags)
            if not request.is_inherited:
                address_space.keep_from_children(address, capacity)
        except AddressConflict:
            if not anywhere:
                raise
            return self._map_anywhere(request, descriptor)
        return request

    def _map_anywhere(self, request: Range, descriptor: int) -> Range:
        address, request.address = request.address, 0
        request.flags = request.flags & ~MAP_RESERVED | MAP_ANYWHERE
        flags = request.flags | (MAP_WRITABLE if request.is_writable else 0)
        request.address = address_space.attach(descriptor, address, request.capacity, flags)
        self._ranges.add(request.address, request.capacity, request)
        return request

    def _find(self, request: Range) -> Range | None:
        mapping = self._taken_over(self._ranges.starting(request.address))
        if mapping is not None and 0 in mapping.unmappings:
            self._unmap(mapping)  # Ctrl-C came before it was forgotten
            return None
        if (
            mapping is not None
            and mapping.identity == request.identity
            and mapping.capacity == request.capacity
        ):
            return mapping
        return None

    def _is_reserved(self, address: int, size: int) -> bool:
        return any(base <= address and address + size <= base + length for base, length in self._reserved)

    def _taken_over(self, mapping: Range | Holding | None) -> Range | None:
        """Return a range that others can share, also for what the fast road mapped. With the gate held."""
        if not isinstance(mapping, Holding):
            return mapping
        grant = mapping.grant
        identity = origin_of(mapping.lane.host_id), grant.region
        label = region_label(grant.name, grant.generation)
        shared = Range(mapping.address, mapping.capacity, MAP_RESERVED, identity, label, False, True)
        hold = Hold(shared, mapping.give_back)
        shared.holds.add(hold)
        # One call: from here on the end of its memory submits this hold, and the books have this range.
        if mapping.become(shared, hold):
            return shared
        # A destructor that the collector ran in here was first.
        return self._taken_over(self._ranges.starting(mapping.address))

    def _keep_stuck(self, holding: Holding) -> None:
        """Keep what could not be unmapped, as `_give_up` does. With the gate held."""
        shared = self._taken_over(holding)
        assert shared is not None
        shared.late += shared.holds
        shared.holds.clear()

    def _give_up(self, hold: Hold | Holding) -> None:
        if isinstance(hold, Holding):
            hold.finish()
            return
        mapping = hold.range
        mapping.holds.discard(hold)
        is_mapped = self._ranges.starting(mapping.address) is mapping
        stays = is_mapped and (mapping.needs_lease() if mapping.holds else not self._unmap(mapping))
        if hold.after is None:
            return
        if stays:
            mapping.late.append(hold)
        else:
            hold.after()

    def _unmap(self, mapping: Range) -> bool:
        try:
            if 0 not in mapping.unmappings:
                address_space.unmap(mapping.address, mapping.capacity, mapping.flags, mapping.unmappings)
        except (OSError, OutOfMemory):
            return False  # at vm.max_map_count: it stays, with its leases, until the end of its next user
        self._ranges.discard(mapping.address)
        for hold in mapping.late:
            if hold.after is not None:
                hold.after()
        return True

    def settle(self) -> None:
        """Return when what was given up before is unmapped: another thread may have been at it."""
        self._gate.settle()

    def before_fork(self) -> None:
        """Have no other thread inside while the process forks."""
        self._gate.lock.acquire()

    def after_fork(self) -> None:
        """Go on, in parent and child; the child has the mappings too."""
        self._gate.leave()

    def after_fork_in_child(self) -> None:
        """Go on without the mappings that a child does not get: others can take their addresses."""
        for mapping in [interval.value for interval in self._ranges]:
            if isinstance(mapping, Range) and not mapping.is_inherited:
                self._ranges.discard(mapping.address)
                if mapping.flags & MAP_RESERVED:
                    with contextlib.suppress(AddressConflict, OSError, OutOfMemory):
                        address_space.reserve(mapping.address, mapping.capacity)
        self.after_fork()


ADDRESS_SPACE = AddressSpace()
