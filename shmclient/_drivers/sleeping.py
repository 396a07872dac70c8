"""Waiting for a newer region by sleeping on its line of the board. Does no I/O: yields steps."""

from __future__ import annotations

import math
from typing import Any

from shmclient._connection.exchange import Subscription
from shmclient._drivers.steps import Context, Look, Operation
from shmclient._regions.mapped import Mapped
from shmprotocol.errors import HostGone

Fetched = tuple[Any, Mapped]  # a value, and the data about its mapping


def sleep_while_current(
    context: Context,
    mapped: Mapped,
    subscription: Subscription,
    wait_s: float = math.inf,
    fetch: tuple[str, bool] = ("", False),
) -> Operation[Fetched | bool | None]:
    """Return True when a region that was got on this connection may not be current any more.

    None: the time is over. False: nobody can sleep on it, so wait in another way. An end of the subscription,
    which is local to this process, is raised; so is HostGone. `fetch` is a name, and whether it may be mapped
    anywhere: then the next region may be fetched at once, and is returned.
    """
    board = context.outbox.board
    line = board.line(mapped.grant.line) if board is not None else 0
    if board is None or not line:
        return False
    while True:
        changes = board.changes(line)  # before the look: a change after it ends the sleep at once
        is_current = mapped._is_granted()
        if is_current is None:
            raise HostGone("the host is gone: its board has no owner any more")
        if not is_current:
            return True
        answer: Fetched | bool | None = yield Look(subscription, line, board.owner, changes, wait_s, *fetch)
        is_news = isinstance(answer, tuple) and answer[1].grant.region != mapped.grant.region
        if is_news or not answer:
            return answer
