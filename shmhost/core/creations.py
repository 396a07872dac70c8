"""The unpublished regions of one client: made, published or undone. Knows no socket, clock or thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

from shmhost.core.asked_addresses import explained
from shmhost.core.growing import end_if_larger
from shmhost.core.headers import header_of
from shmhost.core.hub import Hub
from shmhost.core.leases import Leases, Send, SendFrame
from shmhost.core.objects import Memfd, PosixShm
from shmhost.core.peers import Peer
from shmhost.core.records import note_of
from shmhost.core.regions import Region
from shmhost.core.spares import Spares, as_create, fits_without_spares
from shmhost.core.window import AddressTaken
from shmhost.core.work import Steps, Work
from shmprotocol.abi.header import FLAG_SEAL_FULL, HEADER_SIZE, KIND_DATA, Header
from shmprotocol.errors import InvalidArgument, QuotaExceeded, RegionBusy, RegionExists, RegionNotFound
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import Backend, ChangeKind, Seal, State


class Begun(NamedTuple):
    """A sealing that is under way: what it says in the header, and what waits for it."""

    generation: int
    created_ns: int
    finish: Callable[[], tuple[int, int]]


class Creations:
    """The regions that one client creates. `leases` and `spares` are the client's: a publish gives it one."""

    def __init__(self, hub: Hub, peer: Peer, leases: Leases, spares: Spares, send: Send) -> None:
        self._hub = hub
        self._registry = hub.registry
        self._peer = peer
        self._leases = leases
        self._send = send
        self._regions: dict[int, Region] = {}
        self._unkept: dict[int, Region] = {}  # published, and their names end with this connection
        self._growing: dict[int, Region] = {}  # published, and their creator can make them larger itself
        self._spares = spares

    def create(self, request: m.Create) -> Steps:
        """Make a region and its object; the reply is Created."""
        region = yield from self._new(request)
        region.keep = request.keep
        self._regions[region.number] = region
        # Nobody else has a new memfd, and its pages come when they are touched. The space of shm is reserved
        # now, in a folder that others can make wait.
        is_quick = region.backend is Backend.MEMFD
        try:
            wish = (region.backend, region.name, region.capacity, *((True,) if region.extent else ()))
            region.object = yield Work(lambda: self._hub.make_object(*wish), is_quick)
            _check_pending(region)
            reply = m.Created(request.id, region.number, region.span.address, region.capacity, region.extent)
            self._send(reply, (region.object.writer(),))
        except BaseException:
            del self._regions[region.number]
            self._registry.abort(region)
            raise

    def publish(self, request: m.Publish) -> Steps:
        """Make a region of this client visible; the reply is Published."""
        region = self._creation(request.region)
        registry = self._registry
        assert region.object is not None
        flags = region.object.flag(region.seal)
        header = header_of(region, request, flags, registry.next_generation(region), registry.clock())
        with self._made_ahead(request.spares) as spares:
            yield from self._seal(region, header, spares)
            _check_pending(region)
            try:
                registry.check_place(region)
                self._reply(region, header, request.id, spares)
            except (OSError, RegionExists):
                registry.abandon(region)
                raise
            del self._regions[region.number]
            self._show(region, spares)

    def assign(self, request: m.Assign, begun: Begun | None = None) -> Steps:
        """Name a spare, which its client has filled, and make it visible; the reply is Published.

        `begun`: it is being sealed, with a header that says what this one would. After a refusal the spare is
        gone: what the client wrote must not show under another name.
        """
        region = self._spares.take(request.region)
        try:
            self._registry.assign(region, as_create(request, request.size))
            header = self._header(region, request, begun)
            with self._made_ahead(request.spares) as spares:
                yield from self._seal(region, header, spares, begun)
                _check_pending(region)
                self._registry.check_place(region)
                self._registry.shrink(region)
                self._reply(region, header, request.id, spares)
                self._show(region, spares)
        finally:
            if region.state is not State.CURRENT:
                self._registry.abort(region)

    def reserve(self, request: m.Reserve) -> None:
        """Say how many bytes of spares the client may have from now on."""
        self._send(m.Reserved(request.id, self._spares.reserve(request.size)), ())

    def put(self, request: m.Put) -> Steps:
        """Make, fill and publish a small region; the reply is Published."""
        size = len(request.payload)
        region = yield from self._new(as_create(request, size))
        self._publish_whole(region, request, request.payload, (0, size))

    def put_packed(self, request: m.Put, data: bytes, part: tuple[int, int], send_frame: SendFrame) -> None:
        """Do what `put` does with a request that has no payload: it is a part of the data."""
        create = as_create(request, part[1])
        region = self._registry.create(create, self._peer)
        self._publish_whole(region, request, data, part, send_frame)

    def _publish_whole(
        self,
        region: Region,
        request: m.Put,
        data: bytes,
        part: tuple[int, int],
        send_frame: SendFrame | None = None,
    ) -> None:
        # The creator never has a descriptor that can write, so that nothing can make this wait.
        try:
            header = self._header(region, request)
            region.object = Memfd.sealed(region.name, region.capacity, header.pack(), data, part)
            self._reply(region, header, request.id, (), send_frame)
        except BaseException:
            self._registry.abort(region)
            raise
        self._show(region)

    def abort(self, request: m.Abort) -> None:
        """Undo a creation, if it was not published meanwhile: the two messages may cross."""
        if self._spares.has(request.region):
            self._registry.abort(self._spares.take(request.region))
            return
        region = self._regions.get(request.region)
        if region is None:
            return
        if request.mapped:
            self._registry.abandon(region)
        else:
            del self._regions[region.number]
            self._registry.abort(region)

    def record(self) -> tuple[int, ...]:
        """Return the numbers of the regions, for `resume`."""
        published = (*self._unkept.values(), *self._growing.values())
        return *self._regions, *[each.number for each in published if each.state is State.CURRENT]

    def resume(self, regions: Sequence[Region]) -> None:
        """Take regions that the client began to create with another host, or whose names it does not keep."""
        for region in regions:
            self._table_of(region)[region.number] = region

    def _table_of(self, region: Region) -> dict[int, Region]:
        if not region.generation:
            return self._regions
        return self._growing if region.keep else self._unkept

    def _remember(self, region: Region) -> None:
        """Note a region until the end of the connection. Those that have ended go at each power of two."""
        table = self._table_of(region)
        table[region.number] = region
        if len(table) & (len(table) - 1) == 0:
            for number in [number for number, each in table.items() if each.state is not State.CURRENT]:
                del table[number]

    def closing(self) -> Iterator[None]:
        """Undo all creations, and unlink what is not kept, one in each step."""
        self._spares.close()
        while self._regions:
            self._registry.abort(self._regions.popitem()[1])
            yield
        while self._unkept:
            region = self._unkept.popitem()[1]
            if region.state is State.CURRENT:
                self._registry.hide(region)
                self._hub.tell(ChangeKind.UNLINKED, region)
            yield
        while self._growing:
            end_if_larger(self._hub, self._peer, self._growing.popitem()[1])
            yield

    def _new(self, request: m.Create) -> Generator[Work, Any, Region]:
        """Return a new region; when memory is short, spares are taken back for it."""
        try:
            return self._registry.create(request, self._peer)
        except AddressTaken as error:
            raise (yield from explained(error, self._registry, self._peer)) from None
        except QuotaExceeded:
            could_fit = fits_without_spares(self._registry, request.size, self._peer)
            wait = self._hub.recall() if could_fit else None
            if wait is None:
                raise
        yield Work(wait, is_quick=False)
        return self._registry.create(request, self._peer)

    @contextlib.contextmanager
    def _made_ahead(self, sizes: Sequence[int]) -> Iterator[list[Region]]:
        """Yield new spares, which still need their objects; free those that the block does not give away."""
        spares = self._spares.admit(sizes) if sizes else []
        try:
            yield spares
        except BaseException:
            for spare in spares:
                if not self._spares.has(spare.number):
                    self._registry.abort(spare)
            raise

    def _header(self, region: Region, request: m.Put | m.Assign, begun: Begun | None = None) -> Header:
        registry = self._registry
        generation = registry.next_generation(region) if begun is None else begun.generation
        created_ns = registry.clock() if begun is None else begun.created_ns
        metadata = region.span.address + HEADER_SIZE + request.metadata if request.metadata_size else 0
        publish = m.Publish(
            request.id, region.number, KIND_DATA, request.data_size, 0, 0, metadata, request.metadata_size
        )
        return header_of(region, publish, FLAG_SEAL_FULL, generation, created_ns)

    def _reply(
        self,
        region: Region,
        header: Header,
        request: int,
        spares: Sequence[Region],
        send_frame: SendFrame | None = None,
    ) -> None:
        """Send Published. OSError: the region is as unpublished as before."""
        region.size = header.data_size
        region.generation, region.created_ns = header.generation, header.created_ns
        region.kind = header.kind
        assert region.object is not None
        # The reply goes first: without it the creator would treat a visible region as unpublished. And before
        # it the board: with the reply, the creator may look.
        note = note_of(self._registry.book, self._registry.current.get(region.name))
        self._registry.announce(region)
        if not region.line:
            self._hub.note_full_board(region)
        try:
            if send_frame is not None:
                self._leases.publish_packed(request, region, send_frame, note)
            else:
                grant = self._leases.grant(region)
                ahead = tuple([m.Spare(spare.number, spare.span.address, spare.capacity) for spare in spares])
                writers = [spare.object.writer() for spare in spares if spare.object is not None]
                descriptors = (region.descriptor(self._peer), *writers)
                self._leases.send(m.Published(request, grant, ahead), (grant,), descriptors, note)
        except OSError:
            self._registry.retract(region)
            region.generation = 0
            raise

    def _show(self, region: Region, spares: Sequence[Region] = ()) -> None:
        if spares:
            self._spares.add(spares)
        before = self._hub.replaced(self._registry.current.get(region.name), region)
        self._registry.publish(region)
        self._hub.tell(ChangeKind.PUBLISHED, region, before)
        if region.extent or not region.keep:
            self._remember(region)

    def _seal(
        self, region: Region, header: Header, spares: list[Region], begun: Begun | None = None
    ) -> Steps:
        """Write the header and seal; then give the new spares their objects, to as many as can have one."""
        memory_object, packed = region.object, header.pack()
        assert isinstance(memory_object, Memfd | PosixShm)
        call: Callable[[], Any] = partial(
            _cut_and_publish, memory_object, header.capacity, packed, region.seal
        )
        # The creator can make this wait, whatever the size: see `workers`.
        region.is_busy = True
        try:
            sealing = None
            if begun is not None:
                call = begun.finish
            elif isinstance(memory_object, Memfd):
                sealing = memory_object.sealing(header.capacity, packed, region.seal)
            said = yield Work(call, False, is_retry=region.was_busy, sealing=sealing, can_be_left=True)
            if said is not None:
                assert isinstance(memory_object, Memfd)
                failed, error = said
                memory_object.was_sealed(header.capacity, failed, error, region.seal)
        except RegionBusy:
            region.was_busy = True
            raise
        finally:
            region.is_busy = False
        if spares:
            yield from self._spares.make_objects(spares)

    def _creation(self, number: int) -> Region:
        region = self._regions.get(number)
        if region is None:
            raise InvalidArgument(f"region {number} is not being created by this connection")
        _check_pending(region)
        return region


def _cut_and_publish(memory_object: Memfd | PosixShm, capacity: int, header: bytes, seal: Seal) -> None:
    if isinstance(memory_object, Memfd):
        memory_object.cut(capacity)
    memory_object.publish(header, seal)


def _check_pending(region: Region) -> None:
    if region.state is State.ABORTED:
        raise RegionNotFound(
            f"the creation of {region.name!r} was ended by an unlink of its name (`shmhost rm`) or an "
            "abort: create it again"
        )
