"""The registry: the regions of a host, their permissions, and their release.

Knows names, addresses, charges and leases. Never waits and knows no socket; the functions that are passed
in create and close the memory.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from shmhost.core.accounts import Accounts
from shmhost.core.bearing import bear
from shmhost.core.board import Board, NoBoard
from shmhost.core.generations import Generations
from shmhost.core.given_lines import GivenLines
from shmhost.core.meter import Tallies
from shmhost.core.names import arena_over, check_above, check_below, check_free
from shmhost.core.objects import Freeable
from shmhost.core.peers import Peer
from shmhost.core.records import Book, NoBook
from shmhost.core.regions import RETIRED, WRITE, Region, check_create, not_found
from shmhost.core.window import Allocator, Span, Window
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.errors import AccessDenied, InvalidArgument, QuotaExceeded
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import Backend, ChangeKind, Seal, State, check_mode

# Bytes charged beside the object: the host's record, the kernel's inode and open files. † 3.3 KiB, 3.8 with a
# name of 200 bytes (memory cgroup, Linux 6.18, 2026-11).
REGION_OVERHEAD = 4096
CURRENT = State.CURRENT
WITH_WRITER = 2  # descriptors of an object that is not sealed yet; then it has one


@dataclass(slots=True)
class Registry:
    """All regions of a host. `clock` gives nanoseconds; `dispose` takes objects that are no longer needed.

    `note` is called for each change that watchers get, and for FREED.
    """

    allocator: Allocator
    accounts: Accounts
    clock: Callable[[], int]
    dispose: Callable[[Freeable], None]
    note: Callable[[ChangeKind | State, Region], None] = lambda _kind, _region: None
    make_room: Callable[[], bool] = lambda: False  # frees addresses that may not be needed, if there are any
    # Called with a region of an earlier host that is freed: whether its addresses stay taken, and its record.
    expect_again: Callable[[Region], bool] = lambda _region: False
    current: dict[str, Region] = field(default_factory=dict)
    creating: dict[str, Region] = field(default_factory=dict)
    regions: dict[int, Region] = field(default_factory=dict)
    arenas: set[Region] = field(default_factory=set)  # those of `regions`
    shared: set[Region] = field(default_factory=set)  # those that several may write, or that grow
    lines: GivenLines = field(default_factory=GivenLines)  # of the board
    tallies: Tallies = field(default_factory=Tallies)
    board: Board = field(default_factory=NoBoard)
    book: Book = field(default_factory=NoBook)
    generations: Generations = field(default_factory=Generations)
    names: list[str] = field(default_factory=list)  # of `current`, sorted
    order: list[int] = field(default_factory=list)  # the numbers of `regions`, sorted
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    lease_numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def create(self, request: m.Create, peer: Peer) -> Region:
        """Take name, bytes and address for a new region, which has no object yet; or refuse."""
        seal, backend = check_create(request)
        self.check_replace(request, peer)
        capacity = self._capacity(request.size)
        extent = self._capacity(request.max_size) if request.max_size else 0
        room = capacity - HEADER_SIZE if extent else request.size
        region = self.take(room, capacity, peer, extent, WITH_WRITER, request.address)
        region.extent = extent
        region.name, region.mode, region.backend = request.name, request.mode, backend
        region.seal = seal if backend is not Backend.SHM else Seal.NONE  # tmpfs files take none
        self.creating[region.name] = region
        self.add(region, State.CREATING)
        return region

    def spare(self, size: int, peer: Peer) -> Region:
        """Take bytes and address for a region that gets its name and its content later; or refuse."""
        region = self.take(size, self._capacity(size), peer, files=WITH_WRITER)
        self.add(region, State.SPARE)
        return region

    def assign(self, region: Region, request: m.Create) -> None:
        """Give a spare its name, and the size of its payload; or refuse."""
        check_create(request)
        self.check_replace(request, region.owner)
        if self._capacity(request.size) > region.capacity:
            raise InvalidArgument(f"{request.size} bytes do not fit in a spare of {region.capacity}")
        region.name, region.mode, region.room = request.name, request.mode, request.size
        self.creating[region.name] = region
        self._move(region, State.CREATING)

    def shrink(self, region: Region) -> None:
        """Give back what the object of a region has beyond its payload: the object was cut."""
        self.resize(region, self._capacity(region.room))

    def resize(self, region: Region, capacity: int) -> None:
        """Charge what the object of a region will have, or refuse; or give the rest back."""
        if capacity > region.capacity:
            region.charge.grow(capacity + REGION_OVERHEAD)
        else:
            region.charge.shrink(capacity + REGION_OVERHEAD)
        self.tallies.resize(region.tally, region.owner.uid, capacity - region.capacity)
        region.capacity = capacity

    def next_generation(self, region: Region) -> int:
        """Return the generation that a region will be when it is published."""
        older = self.current.get(region.name)
        return self.generations.next(older.generation if older is not None else None)

    def announce(self, region: Region) -> None:
        """Say on the board, and to a successor, that a region is current; before anybody else is told."""
        older = self.current.get(region.name)
        self.assign_line(region)
        self.book.enter(region)
        self.board.set(region.line, region.number, region.generation)
        if older is not None and older.line != region.line:
            self.board.set(older.line, 0, 0)

    def assign_line(self, region: Region) -> None:
        """Give a region the line of its name, and the rights that it has there."""
        older = self.current.get(region.name)
        if region.arena is None:  # an arena has its line already, and nobody shares that
            region.line = self.lines.assign(self.board, region, older, self.accounts)
        if older is not None and older.line == region.line:
            region.rights = older.rights
        else:
            self.board.set_rights(region.line, region.rights)

    def retract(self, region: Region) -> None:
        """Undo `announce`: the older generation has stayed the current one."""
        older = self.current.get(region.name)
        if older is not None:
            self.board.set(older.line, older.number, older.generation)
        if older is None or older.line != region.line:
            self.board.set(region.line, 0, 0)
        if self.board.release(region.line):
            self.lines.give_back(region.line)
        region.line = 0
        self.book.remove(region)

    def publish(self, region: Region) -> None:
        """Make a created and announced region, which has its generation, the current one of its name."""
        del self.creating[region.name]
        if region.seal is not Seal.SHARED and not region.extent:  # which keep their writer
            region.charge.close_file()
        older = self.current.get(region.name)
        self.current[region.name] = region
        self._move(region, State.CURRENT)
        if older is None:
            insort(self.names, region.name)
        region.is_successor = older is not None
        self.note(ChangeKind.PUBLISHED, region)
        if older is not None:
            self.retire(older, State.SUPERSEDED)

    def succeed(self, region: Region, older: Region) -> None:
        """Make a spare that was announced the current region of a name; the older one is it until now."""
        region.charge.close_file()
        self.current[region.name] = region
        self._move(region, State.CURRENT)
        self.note(ChangeKind.PUBLISHED, region)
        self.retire(older, State.SUPERSEDED)

    def abandon(self, region: Region) -> None:
        """Give up a creation whose creator may still have it mapped: its name and object are released.

        Its address and its charge stay until `abort`. May be called again.
        """
        self._give_up_name(region)
        if region.object is not None:
            self.dispose(region.object)
            region.object = None

    def abort(self, region: Region) -> None:
        """Undo a creation, abandoned or not. No effect after `close`."""
        if region.state is State.FREED:
            return
        self._give_up_name(region)
        self._free(region)

    def end_creation(self, name: str, peer: Peer) -> bool:
        """End the creation of a name; False if there is none. Only its owner and uid 0 may.

        Object, address and charge stay until `abort`: a thread may be at work on the object, and the
        creator may have it mapped.
        """
        region = self.creating.get(name)
        if region is None or not region.is_visible(peer):
            return False
        if peer.uid not in (0, region.owner.uid):
            raise AccessDenied(
                f"uid {peer.uid} may not end the creation of {name!r}: uid {region.owner.uid}, pid "
                f"{region.owner.pid} is creating it"
            )
        self._give_up_name(region)
        return True

    def find(self, name: str, peer: Peer) -> Region:
        """Return the current region of a name; RegionNotFound, also if the peer may not learn of it."""
        region = self.current.get(name)
        if region is None or not region.is_visible(peer):
            raise not_found(name, peer)
        return region

    def find_holding(self, name: str, peer: Peer) -> Region:
        """Return the current region of a name, or the arena that it lies below; RegionNotFound as `find`."""
        arena = arena_over(name, self.current) if self.arenas and name not in self.current else None
        if arena is None:
            return self.find(name, peer)
        if not arena.is_visible(peer):
            raise not_found(name, peer)
        return arena

    def unlink(self, name: str, peer: Peer) -> Region:
        """Hide a name; its region is freed with its last lease."""
        region = self.current.get(name)
        if region is None:
            raise not_found(name, peer)
        region.check(peer, WRITE)
        self.hide(region)
        return region

    def hide(self, region: Region) -> None:
        """Do what `unlink` does with a current region, whoever asks for it."""
        del self.current[region.name]
        del self.names[bisect_left(self.names, region.name)]
        self.generations.retire(region.generation)
        self.board.set(region.line, 0, 0)
        self.note(ChangeKind.UNLINKED, region)
        self.retire(region, State.UNLINKED)

    def chmod(self, name: str, mode: int, peer: Peer) -> tuple[m.RegionInfo, Region]:
        """Set the mode, and return what the region was; only the owner and uid 0 may."""
        region = self.find(name, peer)
        check_mode(mode)
        if peer.uid not in (0, region.owner.uid):
            raise AccessDenied(
                f"uid {peer.uid} may not change the mode of {name!r}: it belongs to uid {region.owner.uid}"
            )
        before = region.info()
        region.mode = mode
        region.change_rights()
        self.book.change(region)
        self.board.set_rights(region.line, region.rights)
        self.note(ChangeKind.CHANGED, region)
        return before, region

    def lease(self, region: Region, peer: Peer) -> int:
        """Record that a peer may have a region mapped, from now on; return the number of the lease."""
        number = next(self.lease_numbers)
        region.leases[number] = (peer, self.clock())
        region.tally.leases += 1
        return number

    def release(self, region: Region, lease: int) -> None:
        """Forget a lease; the last one of a region that is no longer current frees it."""
        peer, _since = region.leases.pop(lease)
        region.tally.leases -= 1
        if region.state is not CURRENT and region.state in RETIRED:
            if not region.leases:
                self._free(region)
            elif peer.uid == region.charge.account.uid:
                bear(self.accounts, region)

    def close(self) -> None:
        """Free everything, leases or not: the host ends.

        An object that a thread is still at work on is left to the end of the process: the numbers of its
        descriptors must not become those of other files meanwhile.
        """
        for region in list(self.regions.values()):
            self._free(region)
        for table in (self.current, self.creating, self.names):
            table.clear()

    def take(
        self, room: int, capacity: int, peer: Peer, extent: int = 0, files: int = 1, address: int = 0
    ) -> Region:
        """Return a new region; `room` is the bytes of its payload, `extent` of addresses, if it may grow.

        `files` is how many descriptors the host will have of it; 0 as the `address`: any.
        """
        extent = max(capacity, extent)
        charge = self.accounts.of(peer.uid).charge_region(
            capacity + REGION_OVERHEAD, files, extent, extent - capacity
        )
        try:
            span, window = self._take_span(extent, address)
        except BaseException:
            charge.release()
            raise
        return Region(next(self.numbers), peer, room, capacity, span, window, charge)

    def add(self, region: Region, state: State) -> None:
        """Enter a new region into the tables, in its first state."""
        region.state = state
        self.regions[region.number] = region
        self.order.append(region.number)
        if region.seal is Seal.SHARED or region.extent:
            self.shared.add(region)
        region.tally = self.tallies.add(state, region.owner.uid, region.capacity)

    def _capacity(self, size: int) -> int:
        capacity = page_up(HEADER_SIZE + size)
        if capacity > self.allocator.largest:
            raise QuotaExceeded(
                f"{size} bytes do not fit in a window: {self.allocator.largest} bytes at most"
            )
        return capacity

    def _take_span(self, capacity: int, address: int) -> tuple[Span, Window]:
        if address:
            return self.allocator.claim_at(address, capacity)
        span = self.allocator.take(capacity)
        if span is None and self.make_room():
            span = self.allocator.take(capacity)
        if span is None:
            raise QuotaExceeded(
                f"no window has {capacity} bytes of addresses free: close views of old generations, or "
                "give the host another --window"
            )
        return span

    def _move(self, region: Region, state: State) -> None:
        region.move(state)
        region.tally = self.tallies.move(
            region.tally, state, region.owner.uid, region.capacity, len(region.leases)
        )

    def retire(self, region: Region, state: State) -> None:
        """Take a region out of use, which is superseded or unlinked; without a lease it is freed."""
        self._move(region, state)
        self.book.change(region)
        if region.leases:
            bear(self.accounts, region)
        else:
            self._free(region)

    def _free(self, region: Region) -> None:
        if region.generation:  # watchers never saw an unpublished region
            self.note(State.FREED, region)
        is_expected = region.is_back and self.expect_again(region)
        self._move(region, State.FREED)
        if not is_expected:
            self.book.remove(region)
            self.allocator.give(region.span)
        del self.regions[region.number]
        self.shared.discard(region)
        if region.arena is not None:
            self.arenas.discard(region)
            region.arena.end()
        if self.board.release(region.line):
            self.lines.give_back(region.line)
        del self.order[bisect_left(self.order, region.number)]
        region.charge.release()
        if region.object is not None and not region.is_busy:
            self.dispose(region.object)

    def _give_up_name(self, region: Region) -> None:
        if region.state is State.CREATING:
            del self.creating[region.name]
            self._move(region, State.ABORTED)

    def check_place(self, region: Region) -> None:
        """Refuse, as `check_replace`, if an arena came above a region, or names below an arena."""
        if self.arenas:
            check_above(region.name, self.current, region.owner)
        if region.arena is not None:
            check_below(self.names, self.current, region.name, region.owner)

    def check_replace(self, request: m.Create | m.Arena, peer: Peer) -> None:
        """Refuse a name that the peer may not create or replace now."""
        self.accounts.policy.check(request, peer)
        if self.arenas:
            check_above(request.name, self.current, peer)
            check_above(request.name, self.creating, peer)
        rival, older = self.creating.get(request.name), self.current.get(request.name)
        check_free(request.name, peer, rival, older, replace=request.replace)
