"""The records of a host's state file: what a successor must know of each region. Pure.

A record has the identity of the region's object, which only the kernel gives. So what a client hands back to
a successor is the object, or is not: nothing in it is believed, and a copy of it, with whatever header, is
another object. Names, modes and states that changed after the publish stand in the record, and not in the
object, so no older one can be played back.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Protocol

from shmhost.core.ledgers import Ledger
from shmhost.core.peers import Peer
from shmhost.core.processes import NOBODY, Process
from shmhost.core.regions import Region
from shmhost.core.window import Span
from shmprotocol.abi.header import HEADER_SIZE, KIND_ARENA, KIND_DATA, KIND_OBJECTS
from shmprotocol.errors import InvalidArgument
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import MAX_GENERATION, MAX_MODE, MAX_NAME, Backend, Seal, State, check_name

SIZE = 512  # bytes, as in state.c; the fields are those of its struct shm_record
_FIELDS = struct.Struct("<23Q72x256s")
assert _FIELDS.size == SIZE
MORE_AT = 19 * 8  # where the fields are that only arenas and ledgers have
MORE = struct.Struct("<4Q")  # started, namespace, the span of an arena, and a flag
JOINED = struct.Struct("<32Q")  # the arenas of a ledger, where a region has its name
JOINED_AT, MAX_JOINED = 256, 32

# The word: a state, the mode from bit 8 on, the rights from bit 32 on. 0: there is no record; 4: a ledger.
LEDGER = 4
_STATES = {1: State.CURRENT, 2: State.SUPERSEDED, 3: State.UNLINKED}
_STATE_CODES = {state: code for code, state in _STATES.items()}
WORD_OF_CURRENT = 1  # with no mode and no rights: † a third of the time of `word_of` (2026-11)
# The last of the numbers: a seal, the backend from bit 8 on; bit 16: an arena is kept, bit 17: it grows.
_SEALS = dict(enumerate(Seal))
_SEAL_CODES = {seal: code for code, seal in _SEALS.items()}
_BACKENDS = dict(enumerate(Backend))
_BACKEND_CODES = {backend: code for code, backend in _BACKENDS.items()}
_KEEP = 1 << 16
_GROWS = 1 << 17


class OwnerState(IntEnum):
    """The owner of an arena, as far as its host has heard."""

    GONE = 0  # it has nothing of the arena mapped
    WRITES = 1  # or may write, as nobody has heard that it does not
    HAS_LEFT = 2  # it writes no more, and has the arena mapped


class Identity(NamedTuple):
    """An object, for the kernel; `born_ns` is 0 where it does not say that. `uid` is that of its maker."""

    device: int
    inode: int
    born_ns: int
    uid: int


class LedgerRecord(NamedTuple):
    """A ledger as its host has left it, with the numbers of the arenas that it has joined.

    `has_more`: it has joined others as well, more than a record has room for.
    """

    offset: int
    number: int
    peer: Peer
    process: Process
    identity: Identity
    arenas: tuple[int, ...]
    has_more: bool

    def has_joined(self, arena: int) -> bool:
        """Whether the client may hold values of an arena."""
        return self.has_more or arena in self.arenas


class Record(NamedTuple):
    """A region as its host has left it. `offset` is where the file has it; sizes are bytes."""

    offset: int
    state: State
    mode: int
    rights: int
    number: int
    generation: int
    created_ns: int
    span: Span
    size: int
    room: int
    capacity: int
    kind: int
    seal: Seal
    backend: Backend
    keep: bool
    owner: Peer
    identity: Identity
    name: str
    process: Process = NOBODY  # of an arena: its owner's
    extent: int = 0  # of an arena, or a region that grows: bytes that clients map
    owner_state: OwnerState = OwnerState.GONE  # of an arena


# The memory of a book, and the number of a region that loses its name as soon as a reply has left. One system
# call does both, see state.c.
Note = tuple[object, int]


class Book(Protocol):
    """Where a host notes its published regions for a successor. Never raises: a region may have no record."""

    @property
    def memory(self) -> object:
        """The memory of the records, for `publish_put`, which writes one."""

    def take(self) -> int:
        """Return the offset of a free record; 0: there is none."""

    def lose(self, noted: Region, error: int) -> None:
        """Take note that a record could not be written, for this error of the system."""

    def enter(self, region: Region) -> None:
        """Note a region that is about to be published as the current one of its name."""

    def change(self, region: Region) -> None:
        """Note the state and the mode of a region."""

    def remove(self, region: Region) -> None:
        """Forget a region."""

    def note_owner(self, region: Region, state: OwnerState) -> None:
        """Note what the owner of an arena does."""

    def enter_ledger(self, ledger: Ledger) -> None:
        """Note a new ledger, which has joined no arena."""

    def join(self, ledger: Ledger, arena: int) -> None:
        """Note that a ledger joins an arena, by the number of that."""

    def remove_ledger(self, ledger: Ledger) -> None:
        """Forget a ledger."""


class NoBook:
    """The book of a host without a state file."""

    memory = None

    def take(self) -> int:
        """Return 0."""
        return 0

    def lose(self, noted: Region, error: int) -> None:
        """Do nothing."""

    def enter(self, region: Region) -> None:
        """Do nothing."""

    def change(self, region: Region) -> None:
        """Do nothing."""

    def remove(self, region: Region) -> None:
        """Do nothing."""

    def note_owner(self, region: Region, state: OwnerState) -> None:
        """Do nothing."""

    def enter_ledger(self, ledger: Ledger) -> None:
        """Do nothing."""

    def join(self, ledger: Ledger, arena: int) -> None:
        """Do nothing."""

    def remove_ledger(self, ledger: Ledger) -> None:
        """Do nothing."""


def note_of(book: Book, older: Region | None) -> tuple[Note, ...]:
    """Return the note for a reply by which a region takes the name of an older one; none, if it need not."""
    return ((book.memory, older.number),) if older is not None and older.record else ()


def word_of(region: Region) -> int:
    """Return the word of a region's record, in one of the states that have records."""
    return _STATE_CODES[region.state] | region.mode << 8 | region.rights << 32


def word_of_record(record: Record) -> int:
    """Return the word of a record."""
    return _STATE_CODES[record.state] | record.mode << 8 | record.rights << 32


def numbers_of(region: Region) -> tuple[int, ...]:
    """Return the numbers of a region's record, in their order."""
    return (
        region.number,
        region.generation,
        region.created_ns,
        region.span[0],
        region.span[1],
        region.size,
        region.room,
        region.capacity if region.object is None else region.object.capacity,
        region.kind,
        0 if region.seal is Seal.FULL and region.backend is Backend.MEMFD else _code_of(region),
    )


def _code_of(region: Region) -> int:
    keep = _KEEP if region.arena is not None and region.arena.keep else 0
    grows = _GROWS if region.extent else 0
    return _SEAL_CODES[region.seal] | _BACKEND_CODES[region.backend] << 8 | keep | grows


def read(data: bytes, offset: int) -> Record | LedgerRecord | None:
    """Return the record in SIZE bytes, None if there is none. InvalidArgument: no host wrote this."""
    word, *numbers, name_size, started, namespace, mapped, flag, packed = _FIELDS.unpack(data)
    if not word:
        return None
    process = Process(numbers[12], started, namespace)
    if word == LEDGER:
        return _ledger(data, offset, numbers, process, flag)
    number, generation, created_ns, address, extent, size, room, capacity, kind, code = numbers[:10]
    uid, gid, pid = numbers[10:13]
    try:
        record = Record(
            offset=offset,
            state=_STATES[word & 0xFF],
            mode=word >> 8 & 0xFFFFFF,
            rights=word >> 32,
            number=number,
            generation=generation,
            created_ns=created_ns,
            span=Span(address, extent),
            size=size,
            room=room,
            capacity=capacity,
            kind=kind,
            seal=_SEALS[code & 0xFF],
            backend=_BACKENDS[code >> 8 & 0xFF],
            keep=bool(code & _KEEP),
            owner=Peer(uid, gid, pid),
            identity=Identity._make(numbers[13:17]),
            name=packed[:name_size].decode() if name_size <= MAX_NAME else "",
            process=process,
            extent=mapped if kind == KIND_ARENA or code & _GROWS else 0,
            owner_state=OwnerState(flag) if kind == KIND_ARENA else OwnerState.GONE,
        )
    except (KeyError, ValueError) as error:
        raise InvalidArgument(f"the record at {offset} is damaged: {error}") from None
    _check(record)
    return record


def _ledger(data: bytes, offset: int, numbers: list[int], process: Process, has_more: int) -> LedgerRecord:
    arenas = tuple(filter(None, JOINED.unpack_from(data, JOINED_AT)))
    peer, identity = Peer(numbers[10], numbers[11], numbers[12]), Identity._make(numbers[13:17])
    if not 0 < numbers[0] < 2**63 or max(peer.uid, peer.gid, peer.pid) >= 2**32:
        raise InvalidArgument(f"the record at {offset} of a ledger contradicts itself: {numbers!r:.300}")
    return LedgerRecord(offset, numbers[0], peer, process, identity, arenas, bool(has_more))


def _check(record: Record) -> None:
    """Raise InvalidArgument if the numbers of a record contradict each other."""
    check_name(record.name)
    is_right = (
        record.number > 0
        and 0 < record.generation <= MAX_GENERATION
        and record.mode <= MAX_MODE
        and record.kind in (KIND_DATA, KIND_OBJECTS, KIND_ARENA)
        and HEADER_SIZE <= record.capacity < record.span.size
        and record.size <= record.room
        and HEADER_SIZE + record.room <= record.capacity
        and max(record.owner.uid, record.owner.gid, record.owner.pid) < 2**32
        and (
            (record.kind != KIND_ARENA and not record.extent)
            or record.capacity <= record.extent < record.span.size
        )
    )
    if not is_right:
        raise InvalidArgument(f"the record at {record.offset} contradicts itself: {record!r:.300}")
