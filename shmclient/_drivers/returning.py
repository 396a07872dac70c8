"""Regions that come back: a client hands to a host what it has of the killed one before. Does no I/O.

The objects that have the leases get those of the new connection; the old ones have ended with theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from shmclient._drivers.answers import only
from shmclient._drivers.steps import Ask, Context, Operation
from shmprotocol.errors import InvalidArgument, RemoteProtocolError, Unsupported
from shmprotocol.native.builtins import Held, Holding, Home, Kept
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_RESTORED, origin_of

Owner = Holding | Held | Kept


def hand_back(context: Context, homes: Sequence[tuple[str, Home]]) -> Operation[None]:
    """Hand back what is kept in the homes of earlier connections, each with the id of its host.

    A region that the host does not take stays mapped, with no lease.
    """
    outbox = context.outbox
    for host_id, home in homes:
        if outbox.home is None or host_id == outbox.host_id or origin_of(host_id) != outbox.origin:
            continue
        owners = home.owners() if home.is_host_of(outbox.fileno()) else []
        for start in range(0, len(owners), MAX_RESTORED):
            if not (yield from _hand_back(context, owners[start : start + MAX_RESTORED])):
                return


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
