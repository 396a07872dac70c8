"""The arenas that one client owns: made, published, grown, and left. Knows no socket, clock or thread.

An owner talks about its arena on a control socket of its own, which needs no frames: a program in C can. The
arena has an owner as long as that socket is open at both ends, and the client is connected. Until then the
host keeps its addresses, as with a lease: the owner has it mapped.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

from shmhost.core.arenas import Arena, sizes_of
from shmhost.core.headers import arena_header
from shmhost.core.hub import Hub, NewControl
from shmhost.core.leases import Send
from shmhost.core.names import check_below
from shmhost.core.objects import ArenaObject, Memfd, PosixShm
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.shares import Share
from shmhost.core.work import PAUSE, Steps, Work
from shmprotocol.abi.header import HEADER_SIZE, KIND_ARENA, page_up
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
    ARENA_BOARD,
    ARENA_GROW,
    ARENA_LEAVE,
    ARENA_READY,
    ChangeKind,
    Seal,
    State,
    check_mode,
    check_name,
)

ARENA_FILES = 3  # descriptors that the host has of an arena: two of the object, and its control socket
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
        self.peer = peer
        self._hub = hub
        self._region = region
        self._arena = arena
        self._object = memory_object
        self._owned = owned
        self._lease = 0
        self.control: NewControl

    def begin(self, control: NewControl) -> None:
        """Start: the owner has its end of the control socket."""
        self.control = control
        self._owned[self._region.number] = self
        registry = self._hub.registry
        self._lease = registry.lease(self._region, self.peer)
        registry.accounts.of(self.peer.uid).leases.add(1)
        self._arena.begin(control)

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
        raise RemoteProtocolError(f"message {kind} is not READY, GROW, BOARD or LEAVE")

    def ended(self) -> None:
        """Take note that the owner has gone. No effect on an arena that is freed, with its host."""
        region, registry = self._region, self._hub.registry
        self._owned.pop(region.number, None)
        if not self._lease:
            return
        registry.accounts.of(self.peer.uid).leases.give(1)
        if region.state is State.FREED:
            return
        if region.state in (State.CREATING, State.ABORTED):
            registry.abort(region)
            return
        self._leave()
        registry.release(region, self._lease)

    def _find_board(self) -> Steps:
        """Say where the arena's line is: on the board of the process that serves by now."""
        yield from ()
        board = self._hub.registry.board
        if board.range[1] and self._arena.line:
            self.control.tell_board(board, self._arena.line)

    def _end(self) -> Steps:
        """Take note that the owner writes no more: it hears of no ledgers, but has it mapped still."""
        yield from ()
        self._leave()

    def _leave(self) -> None:
        if self._arena.control is None:
            return
        self._arena.control = None
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
        yield Work(self._object.publish, is_quick=False)
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
                yield Work(lambda: self._object.grow(size), is_quick=False)
            except BaseException:
                if region.state is not State.FREED:
                    registry.resize(region, before)
                raise
            region.size = size - HEADER_SIZE
            arena.grow(size)
        self._answer(ARENA_GROW)


def create_arena(registry: Registry, request: m.Arena, peer: Peer) -> Region:
    """Take name, bytes, addresses and line for a new arena, which has no object yet; or refuse."""
    size, span = sizes_of(request)
    check_name(request.name)
    check_mode(request.mode)
    registry.check_replace(request, peer)
    check_below(registry.names, registry.current, request.name, peer)
    account = registry.accounts.of(peer.uid)
    region = registry.take(size - HEADER_SIZE, size, peer, span, ARENA_FILES)
    try:
        region.charge.also(account.arenas, 1)
        if not registry.accounts.are_addresses_scarce:  # they are charged already
            region.charge.also(account.addresses, span - size)
        region.line = _take_line(registry, request.name, account.lines)
    except ShmError:
        registry.allocator.give(region.span)
        region.charge.release()
        raise
    region.name, region.mode = request.name, request.mode
    region.seal, region.kind = Seal.WRITER, KIND_ARENA
    region.arena = Arena(span, request.keep, region.line, size, registry.board)
    registry.creating[region.name] = region
    registry.add(region, State.CREATING)
    registry.arenas.add(region)
    return region


def _take_line(registry: Registry, name: str, share: Share) -> int:
    """Return a line of the board for an arena, which shares it with nothing; or refuse."""
    board = registry.board
    if not board.names:
        raise Unsupported("this host has no board, which arenas need: start it with --board")
    share.take(1)
    share.give(1)
    line = registry.lines.take(board, share)
    if not line:
        raise QuotaExceeded(
            f"the board has no line for the arena {name!r}: all {board.names} are in use. Unlink others, or "
            "start the host with a larger --board"
        )
    return line


def _ended(region: Region) -> OSError:
    if region.state is State.ABORTED:
        return OSError(errno.ENOENT, "its name was unlinked while it was made")
    return OSError(errno.EALREADY, "it is published")
