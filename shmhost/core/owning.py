"""The arenas that one client owns: made, published, grown, and left. Knows no socket, clock or thread.

An owner talks about its arena on a control socket of its own, which needs no frames: a program in C can. The
arena has an owner as long as that socket is open at both ends, and the client is connected. Until then the
host keeps its addresses, as with a lease: the owner has it mapped.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

from shmhost.core.arena_making import create_arena
from shmhost.core.arenas import Arena
from shmhost.core.headers import arena_header
from shmhost.core.hub import Hub, NewControl
from shmhost.core.leases import Send
from shmhost.core.objects import ArenaObject, Memfd, PosixShm
from shmhost.core.peers import Peer
from shmhost.core.records import OwnerState
from shmhost.core.regions import Region
from shmhost.core.work import PAUSE, Steps, Work
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.errors import (
    OutOfMemory,
    QuotaExceeded,
    RegionExists,
    RemoteProtocolError,
    ShmError,
    Unsupported,
)
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import (
    ARENA_BACK,
    ARENA_BOARD,
    ARENA_GROW,
    ARENA_LEAVE,
    ARENA_READY,
    ChangeKind,
    State,
)

_ERRNO: dict[type[ShmError], int] = {
    QuotaExceeded: errno.EDQUOT,
    RegionExists: errno.EEXIST,
    OutOfMemory: errno.ENOMEM,
}


class Ownerships:
    """The arenas whose owner a client is."""

    def __init__(self, hub: Hub, peer: Peer, send: Send) -> None:
        self._hub = hub
        self._peer = peer
        self._send = send
        self._owned: dict[int, Ownership] = {}
        self._has_old_board = False  # and cannot ask for another

    def make(self, request: m.Arena) -> Steps:
        """Make an arena, its object and its control socket; the reply is ArenaMade."""
        if self._has_old_board:
            raise Unsupported(
                f"another process is the host since this client connected, and clients of version "
                f"{m.HANDOVER_VERSION - 1} cannot find its board: connect again"
            )
        registry = self._hub.registry
        region = create_arena(registry, request, self._peer)
        arena = region.arena
        assert arena is not None
        try:
            arena.generation, region.created_ns = registry.next_generation(region), registry.clock()
            header = arena_header(region, arena).pack()
            yield PAUSE  # † all takes 150 us
            # Quick: nobody else has a descriptor yet.
            region.object = self._hub.make_arena(region.name, arena.size, arena.size < arena.span, header)
            yield PAUSE
            yield from self._give(request.id, region, arena, region.object)
        except BaseException:
            registry.abort(region)
            raise

    def abort(self, number: int) -> None:
        """Free the name of an arena that is not published, if it is one; the socket's end frees the rest."""
        ownership = self._owned.get(number)
        if ownership is not None:
            ownership.abort()

    def restore(self, request: m.RestoreArena, region: Region, send: Send) -> None:
        """Be the owner of an arena that was handed back; the reply is ArenaRestored. QuotaExceeded, OSError.

        An owner that looks at this host's board already is so by another connection: the arena is this one's
        then.
        """
        arena, memory_object = region.arena, region.object
        assert arena is not None
        assert memory_object is not None
        assert not isinstance(memory_object, Memfd | PosixShm)
        before, control_before = arena.ownership, arena.control
        if before is not None and arena.is_open:
            before.pass_on(self._peer, self._owned)
            send(m.ArenaRestored(request.id, False), ())
            return
        ownership = Ownership(self._hub, self._peer, region, arena, memory_object, self._owned)
        control = self._hub.make_control(ownership)
        try:
            arena.resume(control)
            send(m.ArenaRestored(request.id, True), (control.theirs(),))
        except BaseException:
            arena.control = control_before
            control.close()
            raise
        finally:
            control.hand_over()
        ownership.begin_again(control)
        if before is not None:
            before.control.close()

    def closing(self) -> Iterator[None]:
        """End all, one in each step."""
        while self._owned:
            self._owned.popitem()[1].control.close()
            yield

    def record(self) -> tuple[tuple[int, int, int], ...]:
        """Return the number of each arena, the owner's lease, and since when that is, for `resume`."""
        return tuple([ownership.record() for ownership in self._owned.values()])

    def resume(self, records: Iterable[tuple[int, int, int]], version: int) -> None:
        """Take arenas that the client owns, and made with another host; the hub has their control sockets."""
        self._has_old_board = version < m.HANDOVER_VERSION
        for number, lease, since_ns in records:
            region = self._hub.registry.regions[number]
            assert region.arena is not None
            assert region.object is not None
            assert not isinstance(region.object, Memfd | PosixShm)
            ownership = Ownership(self._hub, self._peer, region, region.arena, region.object, self._owned)
            ownership.resume(self._hub.make_control(ownership), lease, since_ns)

    def _give(self, request: int, region: Region, arena: Arena, memory_object: ArenaObject) -> Steps:
        ownership = Ownership(self._hub, self._peer, region, arena, memory_object, self._owned)
        control = self._hub.make_control(ownership)
        try:
            yield PAUSE
            reply = m.ArenaMade(
                request,
                region.number,
                region.span.address,
                arena.size,
                arena.span,
                arena.line,
                arena.generation,
            )
            self._send(reply, (memory_object.writer(), control.theirs()))
        except BaseException:
            control.close()
            raise
        finally:
            control.hand_over()
        ownership.begin(control)


class Ownership:
    """One arena's owner, as the control socket shows it."""

    def __init__(
        self,
        hub: Hub,
        peer: Peer,
        region: Region,
        arena: Arena,
        memory_object: ArenaObject,
        owned: dict[int, Ownership],
    ) -> None:
        self.peer: Peer = peer
        self._hub = hub
        self._region = region
        self._arena = arena
        self._object = memory_object
        self._owned = owned
        self._lease = 0
        self._has_left = False
        self.control: NewControl

    def begin(self, control: NewControl) -> None:
        """Start: the owner has its end of the control socket."""
        self.control = control
        self._owned[self._region.number] = self
        registry = self._hub.registry
        self._lease = registry.lease(self._region, self.peer)
        registry.accounts.of(self.peer.uid).leases.add(1)
        self._arena.begin(control)
        self._arena.ownership = self

    def begin_again(self, control: NewControl) -> None:
        """Do as `begin` for an owner from before: others may join when it has said that it looks here."""
        self.control = control
        self._owned[self._region.number] = self
        self._lease = self._hub.registry.lease(self._region, self.peer)
        self._hub.registry.accounts.of(self.peer.uid).leases.add(1)
        self._hub.registry.book.note_owner(self._region, OwnerState.WRITES)
        self._arena.ownership, self._arena.is_open = self, False
        if self._hub.absent is not None:
            self._hub.absent.leave(self._region)

    def pass_on(self, peer: Peer, owned: dict[int, Ownership]) -> None:
        """Be an owner by another connection of the same user."""
        self._owned.pop(self.number, None)
        self._owned = owned
        owned[self.number] = self
        self.peer = peer

    @property
    def number(self) -> int:
        """The number of the arena's region."""
        return self._region.number

    def record(self) -> tuple[int, int, int]:
        """Return what `Ownerships.record` does, of this one."""
        return self.number, self._lease, self._region.leases[self._lease][1]

    def resume(self, control: NewControl, lease: int, since_ns: int) -> None:
        """Go on as the owner that another host has known, who has this lease."""
        self.control, self._lease = control, lease
        self._owned[self.number] = self
        self._region.leases[lease] = self.peer, since_ns
        self._region.tally.leases += 1
        self._hub.registry.accounts.of(self.peer.uid).leases.add(1)
        self._arena.ownership = self
        self._has_left = not self._arena.has_owner
        if self._arena.has_owner:
            self._arena.control = control

    def abort(self) -> None:
        """Free the name, if the arena is not published yet."""
        if self._region.state is State.CREATING:
            self._hub.registry.end_creation(self._region.name, self.peer)

    def handle(self, kind: int, size: int) -> Steps:
        """Do what a message asks for, by the steps returned. RemoteProtocolError: no owner says that."""
        if kind == ARENA_READY:
            return self._guarded(kind, self._publish())
        if kind == ARENA_GROW:
            return self._guarded(kind, self._grow(page_up(size)))
        if kind == ARENA_BOARD:
            return self._find_board()
        if kind == ARENA_LEAVE:
            return self._end()
        if kind == ARENA_BACK:
            return self._open()
        raise RemoteProtocolError(f"message {kind} is not READY, GROW, BOARD, LEAVE or BACK")

    def refuse(self, kind: int) -> None:
        """Answer a message that another host has left: the owner can send it again."""
        self._answer(kind, errno.EBUSY)

    def ended(self, *, is_by_owner: bool) -> None:
        """Take note that the conversation has ended. No effect on an arena that is freed, with its host.

        Unless the owner has ended it, its process may write on: for a next host, it does.
        """
        region, registry = self._region, self._hub.registry
        if self._owned.get(region.number) is self:  # else the client has handed it back once more
            del self._owned[region.number]
        if not self._lease:
            return
        registry.accounts.of(self.peer.uid).leases.give(1)
        if region.state is State.FREED:
            return
        if region.state in (State.CREATING, State.ABORTED):
            self._arena.ownership = None  # a cycle
            registry.abort(region)
            return
        if self._arena.ownership is self:
            self._arena.ownership = None
            self._leave()
            if self._arena.is_open and (is_by_owner or self._has_left):
                registry.book.note_owner(region, OwnerState.GONE)
        registry.release(region, self._lease)

    def _find_board(self) -> Steps:
        """Say where the arena's line is: on the board of the process that serves by now."""
        yield from ()
        board = self._hub.registry.board
        if board.range[1] and self._arena.line:
            self.control.tell_board(board, self._arena.line)

    def _open(self) -> Steps:
        """Take note that the owner looks at this socket before it uses any memory again: others may join."""
        yield from ()
        if self._arena.ownership is self and not self._arena.is_open:
            open_arena(self._hub, self._region)

    def _end(self) -> Steps:
        """Take note that the owner writes no more: it hears of no ledgers, but has it mapped still."""
        yield from ()
        if self._arena.ownership is not self:
            return
        if not self._arena.is_open:
            open_arena(self._hub, self._region)
        self._has_left = True
        self._hub.registry.book.note_owner(self._region, OwnerState.HAS_LEFT)
        self._leave()

    def _leave(self) -> None:
        if self._arena.control is None:
            return
        self._arena.control = None
        if not self._arena.is_open:  # the owner looks at the board of the host before still
            if self._hub.absent is not None:
                self._hub.absent.await_owner(self._region, self._arena)
            return
        if self._region.state is not State.CURRENT:
            return
        is_larger = self._object.is_larger()
        if is_larger:
            error = QuotaExceeded(
                f"the owner of the arena {self._region.name!r} made it larger than the "
                f"{self._region.capacity} bytes that it is charged for: it is unlinked"
            )
            self._hub.warn(self.peer, error)
        if is_larger or not self._arena.keep:
            self._hub.registry.hide(self._region)
            self._hub.tell(ChangeKind.UNLINKED, self._region)

    def _guarded(self, kind: int, steps: Steps) -> Steps:
        """Run steps, which answer when they come to a good end; answer with an error otherwise."""
        self._region.is_busy = True
        try:
            yield from steps
        except ShmError as refusal:
            self._hub.meter.refusals[refusal.code] += 1
            error = next((number for cls, number in _ERRNO.items() if isinstance(refusal, cls)), errno.EINVAL)
            self._answer(kind, error)
        except OSError as system:
            self._answer(kind, system.errno or errno.EIO)
        finally:
            self._region.is_busy = False

    def _answer(self, kind: int, error: int = 0) -> None:
        self.control.answer(kind, error, self._arena.size)

    def _publish(self) -> Steps:
        region, registry = self._region, self._hub.registry
        if region.state is not State.CREATING:
            raise _ended(region)
        registry.check_place(region)
        yield Work(self._object.publish, is_quick=False, can_be_left=True)
        if region.state is not State.CREATING:
            raise _ended(region)
        registry.check_place(region)
        region.size, region.generation = self._arena.size - HEADER_SIZE, self._arena.generation
        registry.announce(region)
        before = self._hub.replaced(registry.current.get(region.name), region)
        registry.publish(region)
        self._answer(ARENA_READY)  # before those who waited join: the owner hears of them behind it
        self._hub.tell(ChangeKind.PUBLISHED, region, before)

    def _grow(self, size: int) -> Steps:
        region, arena, registry = self._region, self._arena, self._hub.registry
        if not region.generation or size > arena.span:
            raise OSError(errno.EINVAL, "it is not published, or its span is not so large")
        before = region.capacity
        if size > before:
            registry.resize(region, size)
            try:
                yield Work(lambda: self._object.grow(size), is_quick=False, can_be_left=True)
            except BaseException:
                if region.state is not State.FREED:
                    registry.resize(region, before)
                raise
            region.size = size - HEADER_SIZE
            arena.grow(size)
        self._answer(ARENA_GROW)


def open_arena(hub: Hub, region: Region) -> None:
    """Let clients join an arena that is back: its owner looks at the board of this host, or has ended."""
    arena = region.arena
    assert arena is not None
    arena.is_open = True
    if hub.absent is not None:
        hub.absent.leave(region)
    if region.state is State.CURRENT:
        hub.tell(ChangeKind.PUBLISHED, region)


def settle_arena(hub: Hub, region: Region) -> None:
    """Take note that the owner of an arena has ended, which had not come back."""
    assert region.arena is not None
    assert hub.absent is not None
    hub.registry.book.note_owner(region, OwnerState.GONE)
    if region.arena.is_open:  # its owner had left
        hub.absent.leave(region)
        return
    if region.state is State.CURRENT and not region.arena.keep:
        hub.registry.hide(region)
        hub.tell(ChangeKind.UNLINKED, region)
    open_arena(hub, region)


def _ended(region: Region) -> OSError:
    if region.state is State.ABORTED:
        return OSError(errno.ENOENT, "its name was unlinked while it was made")
    return OSError(errno.EALREADY, "it is published")
