"""The records in messages: regions, their holders, counts, grants. Typed and frozen; see `messages`."""

from shmprotocol.tuples import NamedTuple


class ArenaInfo(NamedTuple):
    """The facts that only an arena has. `span` is the bytes that clients map: so far it may grow.

    `names`, `value_bytes` (of the current values) and `values` (published so far) are what its owner says.
    `ledgers` is the number of clients that may hold values; `has_owner`: somebody can still write.
    """

    span: int
    names: int
    value_bytes: int
    values: int
    ledgers: int
    has_owner: bool


NO_ARENA = ArenaInfo(0, 0, 0, 0, 0, False)


class RegionInfo(NamedTuple):
    """A region as reported by `list` and `stat`. `created_ns` is CLOCK_REALTIME.

    `size` is the bytes of its payload (before publishing: the requested size). `capacity` is the bytes of its
    memory object, with header page and metadata, which are charged. `creator_pid` is for people: it is 0 for
    another PID namespace, and another process may have the number by now. `kind` is that of its header; 0: it
    is not known, as before publishing, or the host is of version 2. `arena` is all zeros for other kinds.
    """

    name: str
    region: int
    generation: int
    state: str  # of names.State
    address: int
    size: int
    capacity: int
    uid: int
    gid: int
    mode: int
    seal: str
    backend: str
    leases: int
    created_ns: int
    creator_pid: int
    kind: int = 0
    arena: ArenaInfo = NO_ARENA


class Holder(NamedTuple):
    """A lease: the holder, and since when (CLOCK_REALTIME). `pid` is for people, as in RegionInfo."""

    lease: int
    uid: int
    gid: int
    pid: int
    since_ns: int


class Inspection(NamedTuple):
    """A region in any state, and up to 4096 of its holders; `info.leases` is their true number."""

    info: RegionInfo
    holders: tuple[Holder, ...]


class Total(NamedTuple):
    """All regions in one state: their number, the bytes of their objects, and their leases."""

    state: str
    regions: int
    capacity: int
    leases: int


class Account(NamedTuple):
    """The account of a user: its own regions, the bytes of their objects, and its connected clients."""

    uid: int
    regions: int
    capacity: int
    clients: int


class Use(NamedTuple):
    """The part of a resource that a user has, and the most that it may have as things are.

    The most is 2**64 - 1 where nothing limits it. The resources are those of a policy.
    """

    uid: int
    resource: str
    used: int
    most: int


class Timing(NamedTuple):
    """The number of requests of one kind since the host started, and their total time in nanoseconds."""

    operation: str
    requests: int
    total_ns: int


class Tally(NamedTuple):
    """The number of refusals with one code since the host started."""

    code: str
    refusals: int


class Grant(NamedTuple):
    """An opened region: the lease, and where to map it. `lease` 0: the held region is current.

    Every other grant comes with one descriptor, in the order of the grants. `size` is the bytes of the
    payload; `capacity` is the bytes of the object, to be mapped. `line` is the line of the board that has the
    number of the name's current region; 0: the board had no room. `rights` is the word of that line that
    changes with the rights to the region.
    """

    lease: int
    region: int
    generation: int
    name: str
    address: int
    size: int
    capacity: int
    flags: int
    line: int = 0
    rights: int = 0


class Hold(NamedTuple):
    """A value that a client says it uses: the address of its block, and since when (CLOCK_MONOTONIC).

    `ledger` is the number of the client's ledger. `pid` is for people, as in RegionInfo.
    """

    ledger: int
    uid: int
    gid: int
    pid: int
    block: int
    since_ns: int


class Spare(NamedTuple):
    """A region without a name, made ahead of a put, of `capacity` bytes with its header page.

    It comes with a read-write descriptor. The host may take it back at any time, and then empties the object.
    """

    region: int
    address: int
    capacity: int
