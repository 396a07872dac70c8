"""A region: the host's data about it, its permissions, and its leases. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from shmhost.core.accounts import Charge
from shmhost.core.arenas import Arena
from shmhost.core.meter import Tally
from shmhost.core.objects import Memfd, MemoryObject, PosixShm
from shmhost.core.peers import Peer
from shmhost.core.window import Span, Window
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import AccessDenied, InvalidArgument, RegionNotFound, Unsupported
from shmprotocol.wire import shortcut
from shmprotocol.wire.items import NO_ARENA, ArenaInfo
from shmprotocol.wire.messages import SHARED_VERSION, Create, Grant, RegionInfo
from shmprotocol.wire.names import (
    Backend,
    Seal,
    State,
    check_backend,
    check_growth,
    check_mode,
    check_name,
    check_seal,
    check_shared,
)

READ, WRITE = 0o4, 0o2

# A region's life: what may follow each state. FREED may follow each of them, for a host that ends frees all.
LIFE: dict[State, frozenset[State]] = {
    State.SPARE: frozenset({State.CREATING, State.CURRENT, State.FREED}),
    State.CREATING: frozenset({State.CURRENT, State.ABORTED, State.FREED}),
    State.ABORTED: frozenset({State.FREED}),
    State.CURRENT: frozenset({State.SUPERSEDED, State.UNLINKED, State.FREED}),
    State.SUPERSEDED: frozenset({State.FREED}),
    State.UNLINKED: frozenset({State.FREED}),
    State.FREED: frozenset(),
}
RETIRED = (State.SUPERSEDED, State.UNLINKED)  # freed with the last lease


@dataclass(eq=False, slots=True)
class Region:
    """A shared memory object and the host's data about it. Sizes are bytes.

    The host never reuses `number`.
    """

    number: int
    owner: Peer
    room: int  # what the creator asked for: its payload and its metadata
    capacity: int  # of the memory object: what is charged (an arena's may grow)
    span: Span
    window: Window
    charge: Charge
    name: str = ""  # of a spare
    mode: int = 0o600
    seal: Seal = Seal.FULL
    backend: Backend = Backend.MEMFD
    tally: Tally = field(default_factory=Tally)  # of its state: it counts the leases
    object: MemoryObject | None = None  # set once it is made; the registry disposes of it
    is_busy: bool = False  # a thread is at work on the object
    was_busy: bool = False  # a publish was refused because pages or a mapping were in use
    state: State = State.CREATING
    size: int = 0  # of the payload, known at publish
    generation: int = 0
    created_ns: int = 0
    is_successor: bool = False  # its name had an older generation when it was published
    # The clients that may have it mapped, and since when, until a Release or their end; by numbers that are
    # never reused.
    leases: dict[int, tuple[Peer, int]] = field(default_factory=dict)
    line: int = 0  # of the board; 0: none
    rights: int = 0  # the word of the line that changes with `mode`
    packed: bytes = b""  # a grant without its lease, as `shortcut` has it; made when it is needed
    kind: int = 0  # of its header, once that is known
    arena: Arena | None = None  # what an arena has beside this
    record: int = 0  # where the host's state file has it; 0: nowhere
    extent: int = 0  # bytes that its object may grow to, and that clients map; 0: it keeps its size
    keep: bool = True  # its name, when its creator's connection ends
    readers: array[int] | None = None  # the read-only descriptor of its object, as `sendmsg` takes it
    is_back: bool = False  # it was published by a host before this one

    def move(self, state: State) -> None:
        """Move to the next state. Only the registry calls this, which counts regions by state."""
        assert state in LIFE[self.state], f"{self.name!r} was {self.state} and cannot become {state}"
        self.state = state

    def change_rights(self) -> None:
        """Note that the mode has changed: grants carry another number from now on, and clients ask again."""
        self.rights = (self.rights + 1) % 2**32
        self.packed = b""

    def extend(self, capacity: int) -> None:
        """Note that the object has grown."""
        self.size = self.room = capacity - HEADER_SIZE
        self.packed = b""

    def allows(self, peer: Peer, right: int) -> bool:
        """Whether the mode gives a peer this right, as for a file; uid 0 may do everything."""
        return peer.uid == 0 or allows(self.owner.uid, self.owner.gid, self.mode, peer, right)

    def is_visible(self, peer: Peer) -> bool:
        """Whether a peer may learn that there is such a name."""
        return peer.uid == self.owner.uid or self.allows(peer, READ)

    def check(self, peer: Peer, right: int) -> None:
        """Raise AccessDenied if the mode does not give a peer this right; RegionNotFound if it is hidden."""
        if not self.allows(peer, right):
            raise refused(self.name, self.owner, self.mode, peer, right)

    def info(self) -> RegionInfo:
        """Return the record for `list` and `stat`."""
        return RegionInfo(
            name=self.name,
            region=self.number,
            generation=self.generation,
            state=self.state,
            address=self.span.address,
            size=self.size if self.generation else self.room,
            capacity=self.capacity,
            uid=self.owner.uid,
            gid=self.owner.gid,
            mode=self.mode,
            seal=self.seal,
            backend=self.backend,
            leases=len(self.leases),
            created_ns=self.created_ns,
            creator_pid=self.owner.pid,
            kind=self.kind,
            arena=NO_ARENA if self.arena is None else self._arena_info(self.arena),
        )

    def _arena_info(self, arena: Arena) -> ArenaInfo:
        memory_object = None if self.state is State.FREED else self.object
        if memory_object is None or isinstance(memory_object, Memfd | PosixShm):
            figures = (0, 0, 0)
        else:
            figures = memory_object.figures()
        return ArenaInfo(arena.span, *figures, len(arena.ledgers), arena.control is not None)

    def descriptor(self, peer: Peer) -> int:
        """Return the descriptor for a reader; of a shared region, those who may write get that."""
        assert self.object is not None
        if self.seal is Seal.SHARED and self.allows(peer, WRITE):
            return self.object.writer()
        return self.object.reader()

    def reader(self) -> array[int]:
        """Return the read-only descriptor of its object, as `sendmsg` takes it."""
        if self.readers is None:
            assert self.object is not None
            self.readers = array("i", (self.object.reader(),))
        return self.readers

    def packed_grant(self) -> bytes:
        """Return a grant without its lease, for `shortcut.opened`; packed once."""
        if not self.packed:
            self.packed = shortcut.pack_grant(self.grant(0))
        return self.packed

    def grant(self, lease: int) -> Grant:
        """Return the grant that a client needs to map it; lease 0 means that the client has it already."""
        flags = self.object.flag(self.seal) if self.object is not None else 0
        return Grant(
            lease,
            self.number,
            self.generation,
            self.name,
            self.span.address,
            self.size,
            self.extent or (self.capacity if self.arena is None else self.arena.span),
            flags,
            self.line,
            self.rights,
        )


def allows(uid: int, gid: int, mode: int, peer: Peer, right: int) -> bool:
    """Whether a mode, of a region of this owner and group, gives a peer who is not uid 0 this right."""
    if peer.uid == uid:
        return bool(mode >> 6 & right)
    if gid == peer.gid or gid in peer.groups:
        return bool(mode >> 3 & right)
    return bool(mode & right)


def refused(name: str, owner: Peer, mode: int, peer: Peer, right: int) -> AccessDenied | RegionNotFound:
    """Return the refusal for a peer whom the mode does not give this right; or that it is hidden."""
    if peer.uid != owner.uid and not allows(owner.uid, owner.gid, mode, peer, READ):
        return not_found(name, peer)
    what = "read" if right == READ else "replace or unlink"
    # The mode of copies of another host's regions has no right to write.
    cure = "" if right == READ or mode & 0o222 else ": a copy of another host's region is replaced there"
    return AccessDenied(
        f"uid {peer.uid} may not {what} {name!r}: it belongs to uid {owner.uid}, gid {owner.gid}, mode "
        f"{mode:04o}{cure}"
    )


def check_unshared(regions: Iterable[Region]) -> None:
    """Raise Unsupported if a client whose version has no shared regions would get one."""
    for region in regions:
        if region.seal is Seal.SHARED or region.extent:
            raise Unsupported(
                f"{region.name!r} is a shared or growing region, which takes version {SHARED_VERSION} of the "
                "protocol: use the same shmhost version on both sides"
            )


def sees(peer: Peer, info: RegionInfo) -> bool:
    """Return what `is_visible` said of a region when it had this info."""
    return peer.uid in (0, info.uid) or allows(info.uid, info.gid, info.mode, peer, READ)


def not_found(name: str, peer: Peer) -> RegionNotFound:
    """Return the refusal of a name that does not exist; of one that a peer may not see, it says the same."""
    return RegionNotFound(
        f"there is no region {name!r}, or uid {peer.uid} may not read it: `shmhost ls` lists those that you "
        "may; get and open can wait for a name"
    )


def name_taken(name: str, peer: Peer) -> AccessDenied:
    """Return the refusal of a new name, for what a peer may not see."""
    return AccessDenied(f"uid {peer.uid} may not create {name!r}: another user has it; choose another name")


def check_create(request: Create) -> tuple[Seal, Backend]:
    """Return the seal and the backend of a request whose fields can be right; InvalidArgument."""
    check_name(request.name)
    check_mode(request.mode)
    if request.size < 1:
        raise InvalidArgument(f"a region has at least 1 byte, not {request.size}")
    seal, backend = check_seal(request.seal), check_backend(request.backend)
    check_shared(seal, backend)
    check_growth(request.size, request.max_size, seal, backend)
    return seal, backend
