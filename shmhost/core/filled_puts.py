"""Spares that their client has filled, each published at once. Knows no socket or clock.

A sealer does it, and the loop waits for it: for a bounded time, as the client can make a sealing wait. What
takes longer, and what is not the plain case, is left to the steps of any other creation.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence

from shmhost.core.creations import Begun, Creations
from shmhost.core.hub import Hub
from shmhost.core.leases import Leases, SendFrame
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.records import note_of
from shmhost.core.regions import WRITE, Region
from shmhost.core.spares import IN_SLICE, Spares
from shmhost.core.work import Steps
from shmprotocol.abi.header import HEADER_SIZE, KIND_DATA, page_up
from shmprotocol.native import builtins
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_METADATA, MAX_MODE, ChangeKind

# The answer of `parse_assign`: Releases, their leases, and the fields of an Assign.
Parsed = tuple[int, list[int], int, int, str, int, bool, int, int, int, int, tuple[int, ...]]


class FilledPuts:
    """The filled spares of one client, which has these creations, leases and spares."""

    __slots__ = ("_creations", "_hub", "_leases", "_owner", "_peer", "_registry", "_spares")

    def __init__(self, hub: Hub, peer: Peer, creations: Creations, leases: Leases, spares: Spares) -> None:
        self._hub = hub
        self._registry = hub.registry
        self._peer = peer
        self._creations = creations
        self._leases = leases
        self._spares = spares
        self._owner = peer.uid, peer.gid, peer.pid

    def sealer_for(self, parsed: Parsed) -> builtins.Sealer | None:
        """Return what `put` takes; None if anything speaks against that."""
        sealers, older = self._hub.sealers, self._registry.current.get(parsed[4])
        region = self._spares.find(parsed[3])
        if sealers is None or region is None or older is None or not self._is_plain(parsed, region, older):
            return None
        return sealers.take(self._peer.uid)

    def put(self, parsed: Parsed, sealer: builtins.Sealer, send_frame: SendFrame) -> Steps | None:
        """Publish a spare; return what is left of that when the sealing takes long.

        After a ShmError or an OSError the spare is gone, as after an Assign.
        """
        registry, sealers, older = self._registry, self._hub.sealers, self._registry.current[parsed[4]]
        assert sealers is not None
        region = self._spares.take(parsed[3])
        region.name, region.mode, region.room = parsed[4], parsed[5], parsed[7]
        try:
            generation = registry.generations.next(older.generation)
            begun = Begun(generation, registry.clock(), functools.partial(sealers.finish, sealer))
            if self._publish(parsed, region, begun, sealer, send_frame):
                self._complete(region, older)
                return None
        except BaseException:
            registry.abort(region)
            raise
        self._spares.add((region,))  # all from its start, but that the sealing is under way
        return self._creations.assign(m.Assign._make(parsed[2:]), begun)

    def _is_plain(self, parsed: Parsed, region: Region, older: Region) -> bool:
        _, _, _, _, name, mode, replace, size, data_size, metadata, metadata_size, sizes = parsed
        return (
            size > 0
            and data_size <= size
            and metadata + metadata_size <= size
            and metadata_size <= MAX_METADATA
            and page_up(HEADER_SIZE + size) <= region.capacity
            and mode <= MAX_MODE
            and len(sizes) <= IN_SLICE
            and name not in self._registry.creating
            and replace
            and older.allows(self._peer, WRITE)
            and older.arena is None
            and not self._registry.accounts.policy.has_names  # it is looked at later
        )

    def _publish(
        self, parsed: Parsed, region: Region, begun: Begun, sealer: builtins.Sealer, send_frame: SendFrame
    ) -> bool:
        """Seal a region and answer; False: the sealing goes on, and all else is undone."""
        self._registry.assign_line(region)
        if not region.line:
            self._hub.note_full_board(region)
        lease, spares = self._leases.add(region, begun.created_ns), self._made(parsed[11])
        try:
            frame = self._seal(parsed, region, begun, sealer, (lease, spares))
            if frame is not None:
                self._note(region, begun, parsed[8])
                writers = [spare.object.writer() for spare in spares if spare.object is not None]
                note = note_of(self._registry.book, self._registry.current.get(region.name))
                send_frame(frame, array("i", (region.reader()[0], *writers)), *note)
        except BaseException:
            self._give_up(region, lease, spares)
            raise
        if frame is None:
            self._give_up(region, lease, spares)
            return False
        if spares:
            self._spares.add(spares)
        return True

    def _note(self, region: Region, begun: Begun, data_size: int) -> None:
        """Note what is published now, also for a successor, before its creator hears of it."""
        region.generation, region.created_ns = begun.generation, begun.created_ns
        region.size, region.kind, region.is_successor = data_size, KIND_DATA, True
        self._registry.book.enter(region)

    def _seal(
        self,
        parsed: Parsed,
        region: Region,
        begun: Begun,
        sealer: builtins.Sealer,
        given: tuple[int, Sequence[Region]],
    ) -> bytes | None:
        """Return the frame of the reply; None: it takes long, and a thread is at work on the object."""
        memory_object, capacity = region.object, page_up(HEADER_SIZE + parsed[7])
        assert isinstance(memory_object, Memfd)
        assert self._hub.sealers is not None
        region.is_busy = True
        said = sealer.publish(
            parsed,
            memory_object.writer(),
            memory_object.reader(),
            capacity < region.capacity,
            self._owner,
            region.window.range,
            tuple([(spare.number, spare.span.address, spare.capacity) for spare in given[1]]),
            region.span.address,
            begun.generation,
            begun.created_ns,
            given[0],
            region.line,
            region.rights,
            self._registry.board.word(region.line),
            self._hub.sealers.wait_ns,
        )
        if said is None:
            return None
        region.is_busy = False
        self._hub.sealers.give(sealer)
        frame, grant = said
        if isinstance(frame, int) or isinstance(grant, int):
            memory_object.was_sealed(capacity, *said)
            raise AssertionError(said)  # it fails
        memory_object.was_sealed(capacity, 0, 0)
        region.packed = grant
        return frame

    def _made(self, sizes: Sequence[int]) -> list[Region]:
        spares = self._spares.admit(sizes) if sizes else []
        if spares:
            for _pause in self._spares.make_objects(spares):
                raise AssertionError("they are too few for a pause")
        return spares

    def _give_up(self, region: Region, lease: int, spares: Sequence[Region]) -> None:
        """Undo what came before the sealing, and what the board says after it."""
        self._leases.drop(region, lease)
        self._registry.retract(region)
        region.generation = 0
        for spare in spares:
            self._registry.abort(spare)

    def _complete(self, region: Region, older: Region) -> None:
        self._registry.shrink(region)
        before = self._hub.replaced(older, region)
        self._registry.succeed(region, older)
        if self._hub.listeners:
            self._hub.tell(ChangeKind.PUBLISHED, region, before)
