"""The regions that one client hands back to a host whose predecessor was killed. Knows no socket or clock.

The identity of the object alone decides what it is, see `records`. A region that another client has handed
back before, or that this host has made, is the client's to use again by the same proof.
"""

from __future__ import annotations

from shmhost.core.arenas import Arena
from shmhost.core.expected import Returned, is_of
from shmhost.core.hub import LEDGER_FILES, Hub, Returnables
from shmhost.core.leases import Leases, Send
from shmhost.core.ledgers import Ledger
from shmhost.core.objects import Memfd, PosixShm
from shmhost.core.owning import Ownerships
from shmhost.core.peers import Peer
from shmhost.core.readings import Readings
from shmhost.core.records import MAX_JOINED, LedgerRecord
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.core.reviving import free_unused, revive
from shmprotocol.errors import InvalidArgument, OutOfMemory, QuotaExceeded, RegionNotFound, Unsupported
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import LEDGER_SIZE, MAX_RESTORED, NOT_NOW, ChangeKind, State


class Returns:
    """The returns of one client. Unsupported: nothing can come back to this host."""

    def __init__(self, hub: Hub, peer: Peer, leases: Leases, send: Send) -> None:
        if hub.returnables is None or hub.expected is None or hub.absent is None:
            raise Unsupported("nothing can come back to this host")
        self._hub = hub
        self._registry = hub.registry
        self._expected = hub.expected
        self._absent = hub.absent
        self._machine: Returnables = hub.returnables
        self._peer = peer
        self._leases = leases
        self._send = send

    def handle(
        self,
        request: m.Restore | m.RestoreLedger | m.RestoreArena,
        descriptors: list[int],
        readings: Readings,
        ownerships: Ownerships,
    ) -> bool:
        """Take back what a request hands back; return whether the client has any of it now."""
        if isinstance(request, m.Restore):
            return self.restore(request, descriptors)
        if not descriptors:
            raise OutOfMemory("this process had no room for the descriptor")
        if isinstance(request, m.RestoreLedger):
            self.restore_ledger(request, descriptors[0], readings)
        else:
            self.restore_arena(request, descriptors[0], ownerships)
        return True

    def restore(self, request: m.Restore, descriptors: list[int]) -> bool:
        """Take regions back, each or not; the reply is Restored. Return whether the client has one now.

        The descriptors of those are closed; the others stay in the list, and the caller's.
        """
        if len(request.regions) > MAX_RESTORED:
            raise InvalidArgument(f"{len(request.regions)} regions are over the {MAX_RESTORED} of a Restore")
        back: list[Region] = []
        grants = []
        for number, descriptor in zip(request.regions, descriptors[:], strict=False):
            grants.append(self._take_back(number, descriptor, back))
            if grants[-1].lease:
                descriptors.remove(descriptor)
                self._machine.close(descriptor)
        grants += map(refusal_for_now, request.regions[len(grants) :])  # there was no room for descriptors
        try:
            self._leases.send(m.Restored(request.id, tuple(grants)), grants, ())
        finally:  # they are back, whatever becomes of this client
            for region in back:
                self._tell(region)
        return any(grant.lease for grant in grants)

    def restore_ledger(self, request: m.RestoreLedger, descriptor: int, readings: Readings) -> None:
        """Take the client's ledger back; the reply is LedgerRestored. RegionNotFound: it is another one."""
        returned = self._machine.examine(descriptor)
        ledger = self._hub.ledgers.get(request.ledger)
        if returned is None or not self._is_theirs(request.ledger, ledger, returned):
            raise RegionNotFound(f"ledger {request.ledger} is not one that this client had")
        if ledger is None:
            ledger = self._put_back(request.ledger, descriptor)
        elif request.event:
            ledger.object.renew()
            for arena in ledger.arenas:
                arena.tell_again(ledger)
        if request.event or not ledger.is_taken:
            readings.adopt(ledger, self._peer)
            ledger.is_taken = request.event
        if request.event:
            self._send(m.LedgerRestored(request.id, True), (ledger.object.event(),))
            ledger.object.hand_over()
        else:
            self._send(m.LedgerRestored(request.id, False), ())

    def restore_arena(self, request: m.RestoreArena, descriptor: int, ownerships: Ownerships) -> None:
        """Take an arena back from its owner; the reply is ArenaRestored. RegionNotFound: it is not."""
        back: list[Region] = []
        try:
            region = self._find(request.region, descriptor, back)
            if region is None or region.arena is None or not self._is_owner(region, region.arena):
                raise RegionNotFound(f"region {request.region} is not an arena that this process owned")
            memory_object = region.object
            assert memory_object is not None
            assert not isinstance(memory_object, Memfd | PosixShm)
            if not self._machine.adopt_writer(memory_object, descriptor):
                raise InvalidArgument(f"the descriptor of arena {request.region} cannot write")
            ownerships.restore(request, region, self._send)
        finally:  # it is back by its object, whoever hands it back
            for each in back:
                self._tell(each)
                free_unused(self._hub, each)

    def _tell(self, region: Region) -> None:
        """Tell those who wait for its name; nobody joins an arena that is not open, so that waits on."""
        if region.state is State.CURRENT and (region.arena is None or region.arena.is_open):
            self._hub.tell(ChangeKind.PUBLISHED, region)

    def _is_owner(self, region: Region, arena: Arena) -> bool:
        """Whether the client may be the process that owned an arena: no other one can know what it writes."""
        return region.owner.uid == self._peer.uid and self._machine.may_be(arena.process, self._peer.pid)

    def _is_theirs(self, number: int, ledger: Ledger | None, returned: Returned) -> bool:
        """Whether a ledger is the client's: owners of arenas have descriptors of it, too.

        Those that this host has made are not handed back: their clients have them by other connections.
        """
        if ledger is not None:
            own = self._machine.examine(ledger.object.reader())
            is_same = own is not None and own.identity == returned.identity
            return is_same and ledger.outlives and self._is_process_of(ledger.peer)
        record = self._absent.find(number)
        return (
            record is not None
            and record.identity == returned.identity
            and returned.size == LEDGER_SIZE
            and record.peer.uid == self._peer.uid
            and self._machine.may_be(record.process, self._peer.pid)
        )

    def _is_process_of(self, peer: Peer) -> bool:
        return (peer.uid, peer.pid) == (self._peer.uid, self._peer.pid)

    def _put_back(self, number: int, descriptor: int) -> Ledger:
        record = self._absent.find(number)
        assert record is not None
        account = self._registry.accounts.of(self._peer.uid)
        charge = account.charge(LEDGER_SIZE + REGION_OVERHEAD, LEDGER_FILES)
        try:
            memory_object = self._machine.adopt_ledger(descriptor)
        except BaseException:
            charge.release()
            raise
        ledger = Ledger(number, self._peer, charge, memory_object)
        return restored(self._hub, ledger, record)

    def _take_back(self, number: int, descriptor: int, back: list[Region]) -> m.Grant:
        """Return the grant of a region that is handed back; nothing changes if it is refused for now."""
        try:
            self._leases.check_room()
            region = self._find(number, descriptor, back)
            return refusal(number) if region is None else self._leases.regrant(region)
        except (QuotaExceeded, OutOfMemory):
            return refusal_for_now(number)
        except Unsupported as error:  # the others of this request are taken back
            self._hub.warn(self._peer, error)
            return refusal(number)

    def _find(self, number: int, descriptor: int, back: list[Region]) -> Region | None:
        """Return the region of an object; one that was expected is back then. Errors as of `revive`."""
        returned = self._machine.examine(descriptor)
        if returned is None:
            return None
        region = self._registry.regions.get(number)
        if region is not None:
            return region if self._is_the_object(region, returned) else None
        record = self._expected.find(number)
        if record is None or not is_of(record, returned):
            return None
        region = revive(self._hub, record, descriptor)
        back.append(region)
        return region

    def _is_the_object(self, region: Region, returned: Returned) -> bool:
        if not region.generation or region.object is None:
            return False
        own = self._machine.examine(region.object.reader())
        return own is not None and own.identity == returned.identity


def restored(hub: Hub, ledger: Ledger, record: LedgerRecord) -> Ledger:
    """Enter a ledger that is back, and have the owners of its arenas know."""
    assert hub.absent is not None
    ledger.outlives = True
    ledger.record = record.offset
    ledger.joined = MAX_JOINED if record.has_more else len(record.arenas)
    hub.ledgers[ledger.number] = ledger
    hub.absent.put_back(ledger, hub.registry.arenas)
    return ledger


def refusal(number: int, flags: int = 0) -> m.Grant:
    """Return the grant that says that a region is not taken back."""
    return m.Grant(0, number, 0, "", 0, 0, 0, flags, 0, 0)


def refusal_for_now(number: int) -> m.Grant:
    """Return the grant that says that a region can be handed back again, later."""
    return refusal(number, NOT_NOW)
