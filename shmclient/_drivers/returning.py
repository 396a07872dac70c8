"""Regions that come back: a client hands to a host what it has of the killed one before. Does no I/O.

The objects that have the leases get those of the new connection; the old ones have ended with theirs. The
client's ledger stays its ledger, with another event. Arenas that this process owns are handed back by the
thread of `keeper.c` alone: the connection that it does that by is the owner's from then on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from shmclient._arenas.reader import ClientLedger
from shmclient._drivers.answers import only, whole
from shmclient._drivers.steps import Ask, Context, Operation, Sleep
from shmprotocol.errors import (
    InvalidArgument,
    OutOfMemory,
    QuotaExceeded,
    RegionNotFound,
    RemoteProtocolError,
    Unsupported,
)
from shmprotocol.native.builtins import ArenaOwner, Held, Holding, Home, Kept, Ledger
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_RESTORED, origin_of

Owner = Holding | Held | Kept
ARENAS_S = 1.0  # a host takes an arena back in a millisecond
LOOK_AGAIN_S = 0.002


def hand_back(context: Context, homes: Sequence[tuple[str, Home]]) -> Operation[None]:
    """Hand back what is kept in the homes of earlier connections, each with the id of its host.

    A region that the host does not take stays mapped, with no lease.
    """
    outbox = context.outbox
    for host_id, home in homes:
        if outbox.home is None or host_id == outbox.host_id or origin_of(host_id) != outbox.origin:
            continue
        holders = home.owners() if home.is_host_of(outbox.fileno()) else []
        for ledger in [each for each in holders if isinstance(each, Ledger)]:
            if not (yield from _hand_back_ledger(context, ledger)):
                return
        owners = [each for each in holders if not isinstance(each, Ledger | ArenaOwner)]
        for start in range(0, len(owners), MAX_RESTORED):
            if not (yield from _hand_back(context, owners[start : start + MAX_RESTORED])):
                return


def await_arenas(context: Context, homes: Sequence[tuple[str, Home]]) -> Operation[None]:
    """Return when the arenas of this process are handed back, or that takes longer than usual."""
    outbox, end = context.outbox, time.monotonic() + ARENAS_S
    of_before = [each for each in homes if each[0] != outbox.host_id and origin_of(each[0]) == outbox.origin]
    while any(home.hasten() for _, home in of_before) and time.monotonic() < end:
        yield Sleep(LOOK_AGAIN_S)


def _hand_back_ledger(context: Context, ledger: Ledger) -> Operation[bool]:
    """Hand back the ledger of an earlier connection, which is that of this one then; False as `_hand_back`.

    A ledger that the host does not take is heeded by owners as long as this process lives.
    """
    outbox, owned = context.outbox, fds.Owned()
    number = ledger.lend(owned)
    if not number or outbox.home is None or context.ledger is not None:
        owned.close()
        return True
    try:
        reply, event = yield Ask(m.RestoreLedger(outbox.next_id(), number, True), None, owned)
    except (RegionNotFound, QuotaExceeded, OutOfMemory):
        return True
    except (OSError, Unsupported, InvalidArgument):
        return False
    finally:
        owned.close()
    whole(context, reply, event, m.LedgerRestored)
    context.ledger = ClientLedger.restored(ledger, event)
    ledger.move(outbox.home)
    return True


def _hand_back(context: Context, owners: Sequence[Owner]) -> Operation[bool]:
    """Hand back what some objects keep; False if the host takes nothing."""
    with_numbers, owned = [], fds.Owned()
    for owner in owners:
        number = owner.lend(owned)
        if number:
            with_numbers.append((owner, number))
    if not with_numbers:
        return True
    request = m.Restore(context.outbox.next_id(), tuple(number for _, number in with_numbers))
    try:
        reply, _ = yield Ask(request, None, owned)
    except (OSError, Unsupported, InvalidArgument):  # EPERM: it has no predecessor, or that was long ago
        return False
    finally:
        owned.close()
    grants = only(reply, m.Restored).grants
    if len(grants) != len(with_numbers):
        raise RemoteProtocolError(f"{len(grants)} grants arrived for {len(with_numbers)} regions")
    for (owner, _), grant in zip(with_numbers, grants, strict=True):
        if grant.lease and not _move(context, owner, grant.lease):
            context.outbox.give_back(None, m.Release(0, (grant.lease,)))
    return True


def _move(context: Context, owner: Owner, number: int) -> bool:
    """Give an object a lease of this connection; False if nobody needs it any more."""
    if isinstance(owner, Kept):
        lease = owner.lease()
        if lease is None:
            return False
        lease.move(context.outbox, number)
        return True
    lane = context.outbox.lane
    return lane is not None and owner.move(lane, number)
