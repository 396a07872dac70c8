"""The messages of the wire and the records in them: typed and frozen. Knows no bytes, socket or memory.

`codec` turns them into arrays and back, by their tags and annotations. These are types here and in the other
modules of messages, not texts as elsewhere: a check of a message would have to evaluate each first.
"""

from typing import Protocol

from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.arena_messages import Arena as Arena
from shmprotocol.wire.arena_messages import ArenaMade as ArenaMade
from shmprotocol.wire.arena_messages import Attend as Attend
from shmprotocol.wire.arena_messages import Survey as Survey
from shmprotocol.wire.arena_messages import Surveyed as Surveyed
from shmprotocol.wire.host_messages import BoardFound as BoardFound
from shmprotocol.wire.host_messages import FindBoard as FindBoard
from shmprotocol.wire.host_messages import Inspect as Inspect
from shmprotocol.wire.host_messages import Inspected as Inspected
from shmprotocol.wire.host_messages import Measure as Measure
from shmprotocol.wire.host_messages import Measured as Measured
from shmprotocol.wire.host_messages import Takeover as Takeover
from shmprotocol.wire.items import Account as Account
from shmprotocol.wire.items import ArenaInfo as ArenaInfo
from shmprotocol.wire.items import Grant as Grant
from shmprotocol.wire.items import Hold as Hold
from shmprotocol.wire.items import Holder as Holder
from shmprotocol.wire.items import Inspection as Inspection
from shmprotocol.wire.items import RegionInfo as RegionInfo
from shmprotocol.wire.items import Spare as Spare
from shmprotocol.wire.items import Tally as Tally
from shmprotocol.wire.items import Timing as Timing
from shmprotocol.wire.items import Total as Total
from shmprotocol.wire.items import Use as Use
from shmprotocol.wire.reference_messages import Claim as Claim
from shmprotocol.wire.reference_messages import Keep as Keep
from shmprotocol.wire.restore_messages import HANDED_BACK as HANDED_BACK
from shmprotocol.wire.restore_messages import ArenaRestored as ArenaRestored
from shmprotocol.wire.restore_messages import LedgerRestored as LedgerRestored
from shmprotocol.wire.restore_messages import Restore as Restore
from shmprotocol.wire.restore_messages import RestoreArena as RestoreArena
from shmprotocol.wire.restore_messages import Restored as Restored
from shmprotocol.wire.restore_messages import RestoreLedger as RestoreLedger

VERSION = 5  # the newest that this package speaks
VERSION_MIN = 1
ARENA_VERSION = 3  # the first with arenas
RESTORE_VERSION = 4  # the first in which clients hand back what a killed host has left
HANDOVER_VERSION = 4  # the first whose hosts can take the place of another
SHARED_VERSION = 5  # the first with regions that several write
CLAIM_VERSION = 5  # the first in which a region is opened by its number
LOST = -1  # stands behind descriptors that were received for the rest of their set, which the kernel dropped


class Message(Protocol):
    """The common part of all messages: the id that matches a reply to its request.

    Messages are named tuples: frozen, and arrays for msgpack. † Creating a frozen dataclass takes
    three times as long, and a host creates three messages for each attach.
    """

    @property
    def id(self) -> int:
        """The request's number, chosen by the client; 0 if the message is neither a request nor a reply."""


# --- from the client; `codec` has their tags


class Hello(NamedTuple):
    """The first message: the versions that the client speaks, and its name."""

    id: int
    version_min: int
    version_max: int
    client: str


class Create(NamedTuple):
    """Ask for a new region of `size` payload bytes under `name`; the reply is Created.

    Without `keep` (since version 5) the name goes with this connection. With an `address` (since version 5,
    0: none) the region gets that, or AddressConflict. With a `max_size` it can grow to that, by Resize.
    """

    id: int
    name: str
    size: int
    seal: str
    backend: str
    mode: int
    replace: bool
    keep: bool = True
    address: int = 0
    max_size: int = 0


class Publish(NamedTuple):
    """Make a created region visible. Addresses are absolute; 0 is none. The reply is Published.

    `spares`: bytes of payload that the client would like spares for; since version 2.
    """

    id: int
    region: int
    kind: int
    data_size: int
    root: int
    root_size: int
    metadata: int
    metadata_size: int
    spares: tuple[int, ...] = ()


class Assign(NamedTuple):
    """Give a spare that is filled its name, and publish it. The reply is Published. Since version 2.

    `size` is the bytes of its payload; what is behind them is cut off. The other fields are as in Create
    and Publish: there is no root.
    """

    id: int
    region: int
    name: str
    mode: int
    replace: bool
    size: int
    data_size: int
    metadata: int
    metadata_size: int
    spares: tuple[int, ...]


class Reserve(NamedTuple):
    """Ask that spares of this connection may have `size` bytes, also while it is idle. The reply is Reserved.

    Since version 2.
    """

    id: int
    size: int


class Put(NamedTuple):
    """Store a small value in one request. The reply is Published. Since version 2.

    It makes a sealed region (full, memfd) of `payload`: at its start `data_size` bytes of data, and at offset
    `metadata` a msgpack map of `metadata_size` bytes; 0 and 0: none.
    """

    id: int
    name: str
    mode: int
    replace: bool
    data_size: int
    metadata: int
    metadata_size: int
    payload: bytes


class Abort(NamedTuple):
    """Undo a creation. Has no reply, and no effect on a published region.

    The name is free at once. With `mapped`, the address and the charge stay taken until a second Abort
    without it, or until the connection ends: the client still has a mapping at the address.
    """

    id: int
    region: int
    mapped: bool


class Open(NamedTuple):
    """Ask for leases of current regions. The reply is Opened, for all of them, or a refusal for all.

    `held` is empty or names for each the region the client has mapped (0: none): what is still
    current is not sent again. With `wait`, the host answers when all the names exist.
    """

    id: int
    open_names: tuple[str, ...]
    held: tuple[int, ...]
    wait: bool


class Resize(NamedTuple):
    """Have a region that can grow have `size` bytes of payload. The reply is Done. Since version 5."""

    id: int
    region: int
    size: int


class Release(NamedTuple):
    """Give leases back. Has no reply."""

    id: int
    leases: tuple[int, ...]


class Cancel(NamedTuple):
    """Give up request or watch `target`. Has no reply of its own; the target gets its one reply."""

    id: int
    target: int


class List(NamedTuple):
    """Ask for the regions whose name starts with `prefix`, after name `after`; the reply is Listed."""

    id: int
    prefix: str
    after: str


class Stat(NamedTuple):
    """Ask for one current region; the reply is Described."""

    id: int
    name: str


class Unlink(NamedTuple):
    """Hide a name at once; its memory goes with the last lease. The reply is Done."""

    id: int
    name: str


class Chmod(NamedTuple):
    """Set the mode of the current region; only its owner may. The reply is Done."""

    id: int
    name: str
    mode: int


class Watch(NamedTuple):
    """Ask for an Event at each change of a name with this prefix; the reply is Done, events follow."""

    id: int
    prefix: str


# --- from the host; `codec` has their tags


class Welcome(NamedTuple):
    """The reply to Hello: the version both speak, and the ranges of addresses to reserve.

    `board` is the address and the bytes of the board, whose read-only descriptor comes along; (0, 0): there
    is none, as in version 1.
    """

    id: int
    version: int
    host: str
    windows: tuple[tuple[int, int], ...]
    uid: int
    board: tuple[int, int] = (0, 0)


class Created(NamedTuple):
    """The reply to Create, with one read-write descriptor: where the new region will be mapped.

    `span` is how many bytes are to be mapped, of a region that can grow; 0: its capacity.
    """

    id: int
    region: int
    address: int
    capacity: int
    span: int = 0


class Published(NamedTuple):
    """The reply to Publish, Put and Assign: the creator's own grant, with a read-only descriptor.

    `spares`, each with a read-write descriptor behind that one, are some of those that the request asked
    for, perhaps none.
    """

    id: int
    grant: Grant
    spares: tuple[Spare, ...] = ()


class Reserved(NamedTuple):
    """The reply to Reserve: the bytes that the host lets the connection have, at most those it asked for."""

    id: int
    size: int


class Opened(NamedTuple):
    """The reply to Open: a grant for each name, and a descriptor for each grant with a lease.

    `ledger` is the number and the bytes of the client's ledger, whose descriptor comes behind those with its
    event: with the first grant of an arena. (0, 0): none comes; this is not sent then.
    """

    id: int
    grants: tuple[Grant, ...]
    ledger: tuple[int, int] = (0, 0)


class Listed(NamedTuple):
    """The reply to List, in the order of the names; `more` says that another request will get more."""

    id: int
    regions: tuple[RegionInfo, ...]
    more: bool


class Described(NamedTuple):
    """The reply to Stat."""

    id: int
    info: RegionInfo


class Done(NamedTuple):
    """The reply to a request without a result."""

    id: int


class Refused(NamedTuple):
    """The reply to a request that fails: a code of `errors.REFUSALS` and a sentence for people."""

    id: int
    code: str
    text: str


class Event(NamedTuple):
    """A push; `id` is the Watch's. `kind` is of names.ChangeKind."""

    id: int
    kind: str
    info: RegionInfo


class Goodbye(NamedTuple):
    """The last message of a host that drops a peer: the reason."""

    id: int
    text: str


def _equals(self: tuple[object, ...], other: object) -> bool:
    return type(self) is type(other) and tuple.__eq__(self, other)


def _differs(self: tuple[object, ...], other: object) -> bool:
    return not _equals(self, other)


# Of two messages with the same values only one may be meant: Done(5) is not Measure(5). Named tuples cannot
# inherit this. Making them costs no more; equal ones have equal hashes, as tuples have.
for _cls in [value for value in vars().values() if hasattr(value, "_fields")]:
    setattr(_cls, "__eq__", _equals)  # noqa: B010 - mypy knows these as methods
    setattr(_cls, "__ne__", _differs)  # noqa: B010


def descriptors_of(message: Message) -> int:
    """Return the number of descriptors that ride on the frame of a message."""
    if type(message) is Opened:
        return len([grant for grant in message.grants if grant.lease]) + (2 if message.ledger[1] else 0)
    if type(message) in (Welcome, BoardFound):
        return 1 if message.board[1] else 0  # type: ignore[attr-defined]
    if type(message) is Published:
        return 1 + len(message.spares)
    if type(message) is ArenaMade:
        return 2
    if type(message) is Restore:
        return len(message.regions)
    if isinstance(message, LedgerRestored | ArenaRestored):
        return int(message[1])
    return 1 if type(message) in (Created, Surveyed, RestoreLedger, RestoreArena) else 0
