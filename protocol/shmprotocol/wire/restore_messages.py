"""The messages about what clients hand back to a host whose predecessor was killed, since version 4."""

from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.items import Grant


class Restore(NamedTuple):
    """Hand back regions of the host before, by their numbers, each with a read-only descriptor.

    The reply is Restored. It may come behind Hello, and behind what is handed back before, and nowhere else.
    """

    id: int
    regions: tuple[int, ...]


class Restored(NamedTuple):
    """The reply to Restore: a grant for each region, in their order, whose lease is 0 if it is refused.

    With the flags NOT_NOW it can be handed back again, later: host, system or user had no room for it.
    """

    id: int
    grants: tuple[Grant, ...]


class RestoreLedger(NamedTuple):
    """Hand back the client's ledger, with a descriptor of it. The reply is LedgerRestored, or a refusal.

    With `event` its event loop gets a new event: the host before had the other end of the last one. It may
    come where Restore may.
    """

    id: int
    ledger: int
    event: bool


class LedgerRestored(NamedTuple):
    """The reply to RestoreLedger, with the client's end of the event if that was asked for."""

    id: int
    event: bool


class RestoreArena(NamedTuple):
    """Hand back an arena as its owner, with a read-write descriptor.

    The reply is ArenaRestored, or a refusal. It may come where Restore may.
    """

    id: int
    region: int


class ArenaRestored(NamedTuple):
    """The reply to RestoreArena, with the owner's end of a new control socket.

    Without one the control socket is the one that the owner has, from another connection to this host.
    """

    id: int
    control: bool


HANDED_BACK = (Restore, RestoreLedger, RestoreArena)
