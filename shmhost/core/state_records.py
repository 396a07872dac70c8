"""The records in which a host describes its regions and sessions to the next: msgpack packs them. Pure.

A descriptor is an index into the list that goes along, -1 for none. STATE_FORM changes with every change of
these records: two hosts that differ in it do not understand each other.
"""

from __future__ import annotations

from shmprotocol.tuples import NamedTuple

STATE_FORM = 13

PeerRecord = tuple[int, int, int, tuple[int, ...]]  # uid, gid, pid, groups
ChargeRecord = tuple[int, int, int, int]  # the uid that bears it, bytes, descriptors, regions
Span = tuple[int, int]
Frame = tuple[bytes, tuple[int, ...]]  # with its descriptors
# The fields of an announcement of the fleet, which has their names and their checks.
AnnouncementRecord = tuple[
    str, int, int, int, int, int, int, int, int, int, int, int, str, bytes, bool
]  # fmt: skip


class LedgerRecord(NamedTuple):
    """The ledger of a client. `process` is its pidfd, if it was dropped and still uses values; else -1."""

    number: int
    peer: PeerRecord
    charge: ChargeRecord
    reader: int
    raiser: int
    process: int
    record: int  # where the state file has it
    joined: int
    outlives: bool
    is_taken: bool


class ArenaRecord(NamedTuple):
    """The part of a region that only an arena has. Ledgers are told by their numbers."""

    span: int
    keep: bool
    size: int
    room_to_grow: int
    generation: int
    has_owner: bool
    messages: int
    ledgers: tuple[int, ...]
    attending: tuple[int, ...]
    is_open: bool
    awaited: tuple[int, ...]
    process: tuple[int, int, int]
    is_awaited: bool


class ControlRecord(NamedTuple):
    """The control socket of an arena: messages that wait, each with the number of its ledger, 0 for none."""

    region: int
    socket: int
    queue: tuple[tuple[bytes, int], ...]
    unread: tuple[int, int]
    pending: int  # the message that is under way, 0 for none
    end: int  # 1: it is over, 2: the owner has ended it; 0: it goes on


class ObjectRecord(NamedTuple):
    """The object of a region. `path` is that of a file in /dev/shm."""

    kind: str  # "memfd", "growing", "shm", "arena"; "" for none
    capacity: int
    is_spare: bool  # of an arena: it is not sealed yet
    path: str
    reader: int
    writer: int


class RegionRecord(NamedTuple):
    """A region, but for its leases, which are those of sessions. Sizes are bytes."""

    number: int
    owner: PeerRecord
    room: int
    capacity: int
    span: Span
    charge: ChargeRecord
    name: str
    mode: int
    seal: str
    backend: str
    state: str
    size: int
    generation: int
    created_ns: int
    is_successor: bool
    was_busy: bool
    keep: bool
    line: int
    rights: int
    kind: int
    record: int  # where the state file has it
    extent: int
    is_back: bool
    object: ObjectRecord
    arena: ArenaRecord | None


class SessionRecord(NamedTuple):
    """A session. Regions are told by their numbers; `leases` and `spares` say since when they are, too."""

    peer: PeerRecord
    is_greeted: bool
    version: int
    leases: tuple[tuple[int, int, int], ...]  # lease, region, nanoseconds
    creations: tuple[int, ...]
    reserved: int
    spares: tuple[tuple[int, int], ...]
    waits: tuple[tuple[int, tuple[str, ...], tuple[int, ...], bool], ...]
    questions: tuple[tuple[int, str], ...]  # that wait for their name
    watches: tuple[tuple[int, str], ...]
    ledgers: tuple[int, ...]  # the numbers: its own, 0 for none, and others that it has handed back
    owned: tuple[tuple[int, int, int], ...]  # arena, lease, nanoseconds
    pending: int  # the request that is under way, 0 for none


class LinkRecord(NamedTuple):
    """The socket of a session: bytes of requests and frames that wait, and the counts of what is unread."""

    socket: int
    process: int  # its pidfd
    session: SessionRecord
    may_return: bool  # regions of a host that was killed
    rest: bytes
    queue: tuple[Frame, ...]
    unread: tuple[int, int]


class KeptRecord(NamedTuple):
    """A region that is kept for references to it. `until_ns` is by CLOCK_MONOTONIC."""

    region: int
    peer: PeerRecord
    lease: int
    since_ns: int
    references: int
    until_ns: int


class MeterRecord(NamedTuple):
    """The counters of a host since the first one of its line started."""

    started_ns: int
    restarts: int
    connections: int
    dropped: int
    refusals: tuple[tuple[str, int], ...]
    latencies: tuple[tuple[str, tuple[int, ...], int], ...]


class ExportRecord(NamedTuple):
    """A region that is announced to a fleet. `leaves` are the hashes of its chunks, one after the other."""

    region: int
    announcement: AnnouncementRecord
    leaves: bytes


class ReplicaRecord(NamedTuple):
    """A region that is a copy. `host` is the identity of that which has announced it."""

    region: int
    host: str
    announcement: AnnouncementRecord
    leaves: bytes  # none: it was kept over a kill
    lag_s: float


class FleetRecord(NamedTuple):
    """A host's part in its fleet: what it must know even if no other host answers."""

    fleet: str
    host: str  # its identity
    slices: int
    slice: int | None  # that it hands out of
    lost: tuple[int, ...]
    exports: tuple[ExportRecord, ...]
    last: int  # the latest generation that was given to a value of an arena
    folders: tuple[str, ...]  # of copies that a courier has made, and that were not taken yet
    replicas: tuple[ReplicaRecord, ...]
    origins: tuple[tuple[int, str], ...]  # regions that are or were copies, and their hosts
    pulls: tuple[tuple[str, AnnouncementRecord], ...]  # under way, by the identity of their host
    dropped: tuple[tuple[str, str, int], ...]  # names that were unlinked here: host and generation
    awaited: tuple[str, ...]


class HostRecord(NamedTuple):
    """All that a host has. `next` are the next numbers of a region, a lease and a ledger."""

    host: str
    held_ns: int  # since when it reads no requests, by CLOCK_MONOTONIC
    next: tuple[int, int, int]
    generations: tuple[int, int]  # floor and ceiling
    meter: MeterRecord
    board: Span  # (0, 0): none
    old_boards: tuple[tuple[int, int, tuple[int, ...]], ...]  # with the indices of the links that may have it
    ledgers: tuple[LedgerRecord, ...]
    regions: tuple[RegionRecord, ...]
    links: tuple[LinkRecord, ...]
    controls: tuple[ControlRecord, ...]
    listener: int
    is_inherited: bool  # the listener: its file is a service manager's
    lock: int
    metrics: tuple[str, tuple[int, ...]]  # the address; its listener and the lock of that
    # The address of a service manager, and the seconds between signs of life; 0: none.
    manager: tuple[bytes, float]
    # The room in its store, the regions that it has, and the entries that it must remove.
    store: tuple[int, tuple[int, ...], tuple[str, ...]]
    kept: tuple[KeptRecord, ...]
    fleet: FleetRecord | None
