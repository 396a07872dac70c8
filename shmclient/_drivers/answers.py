"""The host's answers: what they bring has one owner from then on, or is given back. Does no I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from shmclient._connection.exchange import Pending
from shmclient._connection.retry import Wait
from shmclient._drivers.steps import Context, Outcome
from shmclient._process.limits import no_room
from shmclient._regions.creation import creation_key
from shmclient._regions.mapped import Lease
from shmprotocol.errors import (
    Cancelled,
    HostGone,
    RegionTimeout,
    RemoteProtocolError,
    ShmError,
    about,
    again,
    refusal,
)
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m

T = TypeVar("T")


def take(pending: Pending, wait: Wait | None) -> Outcome:
    """Return the reply of a request that is done, or raise its failure or refusal."""
    if pending.failure is not None:
        raise again(pending.failure)
    if isinstance(pending.reply, m.Refused):
        raise _refusal(pending.request, pending.reply, wait)
    return pending.reply, pending.descriptors


def _refusal(request: m.Message, reply: m.Refused, wait: Wait | None) -> ShmError:
    # Returned, not raised: an error in a local variable of a frame in its own traceback is a cycle, which
    # keeps all that the callers have, such as a followed name, until the collector runs.
    error = refusal(reply.code, reply.text)
    name = _name_in(request)
    if isinstance(error, Cancelled) and isinstance(request, m.Open) and wait is not None:
        names = ", ".join(repr(name) for name in request.open_names[:3])
        error = RegionTimeout(f"{names} did not appear within {wait.asked_s:.3g} s")
    return error if name is None else about(error, name)


def _name_in(request: m.Message) -> str | None:
    """Return the one name that a request is about."""
    if isinstance(request, m.Open):
        return request.open_names[0] if len(request.open_names) == 1 else None
    return getattr(request, "name", None)


def undo_creation(context: Context, outcome: object) -> None:
    """Undo an outcome of an operation that Ctrl-C ended, if it is a new region without a Creation.

    A Creation holds the connection as its last act, and aborts itself from then on.
    """
    match outcome:
        case (m.Created() | m.ArenaMade() as created, fds.Owned() as owned) if owned:
            if not context.outbox.is_held(creation_key(created.region)):
                dispose(context, created, owned)


def dispose(context: Context, reply: m.Message, owned: fds.Owned) -> None:
    """Undo what a reply granted that nobody waits for any more."""
    owned.close()
    if isinstance(reply, m.Opened):
        for grant in reply.grants:
            _release(context, grant)
        if reply.ledger[1]:  # lost: a connection gets one once, so the next request needs another connection
            context.outbox.close(HostGone("this connection has no ledger"))
    elif isinstance(reply, m.Published):
        _release(context, reply.grant)
        for spare in reply.spares:
            context.outbox.give_back(None, m.Abort(0, spare.region, False))
    elif isinstance(reply, m.Created | m.ArenaMade):
        context.outbox.give_back(None, m.Abort(0, reply.region, False))


def _release(context: Context, grant: m.Grant) -> None:
    if grant.lease:
        context.outbox.give_back(None, m.Release(0, (grant.lease,)))


def granted(
    context: Context, outcome: Outcome, count: int, held: int
) -> tuple[tuple[m.Grant, ...], fds.Owned]:
    """Return the grants of an answer to an Open of so many names, some held, and their descriptors."""
    reply, owned = outcome
    answer = whole(context, reply, owned, m.Opened)
    grants = answer.grants
    if len(grants) != count or len(owned) + held < count:
        dispose(context, reply, owned)
        raise RemoteProtocolError(f"{len(grants)} grants arrived for {count} names")
    return grants, owned


def leased(context: Context, grants: Sequence[m.Grant], owned: fds.Owned) -> list[Lease]:
    """Return the leases of grants, which end with their users from now on.

    ClientClosed, HostGone: the connection was closed meanwhile, and they ended with it; the descriptors of
    the grants are closed.
    """
    try:
        leases = [Lease(context.outbox, grant.lease) for grant in grants]
        if context.outbox.home is not None:
            for lease, grant, descriptor in zip(leases, grants, owned, strict=False):
                lease.keep(grant.region, descriptor)
        return leases
    except BaseException:
        owned.close()
        raise


def whole(context: Context, reply: m.Message, owned: fds.Owned, kind: type[T]) -> T:
    """Return a reply that came with all its descriptors; else give back what it granted, and say why."""
    if len(owned) < m.descriptors_of(reply):
        error = no_room(reply, len(owned))
        dispose(context, reply, owned)
        raise error
    return only(reply, kind)


def only(reply: m.Message, kind: type[T]) -> T:
    """Return a reply of the expected type."""
    if not isinstance(reply, kind):
        raise RemoteProtocolError(f"{type(reply).__name__} arrived instead of {kind.__name__}")
    return reply
