"""Waiting for a newer region, by sleeping on its line of the board if it can. Does no I/O: yields steps."""

from __future__ import annotations

import math
from typing import Any, TypeVar

from shmclient._connection.exchange import Subscription
from shmclient._connection.retry import Retry
from shmclient._drivers import operations
from shmclient._drivers.boards import living_board
from shmclient._drivers.steps import Context, Look, Next, Operation
from shmclient._regions.mapped import Mapped
from shmprotocol.errors import InvalidArgument, RegionNotFound, RegionTimeout

T = TypeVar("T")
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
    while True:
        board = yield from living_board(context)
        line = board.line(mapped.grant.line) if board is not None else 0
        if board is None or not line:
            return False
        if not mapped.follows(board):
            mapped.renew(mapped.grant, board)
        changes = board.changes(line)  # before the look: a change after it ends the sleep at once
        if not mapped._is_granted():  # or nobody knows but the host
            return True
        answer: Fetched | bool | None = yield Look(subscription, line, board.owner, changes, wait_s, *fetch)
        is_news = isinstance(answer, tuple) and answer[1].grant.region != mapped.grant.region
        if is_news or not answer:
            return answer


def once_after(
    context: Context, name: str, after: int, retry: Retry, operation: Operation[T]
) -> Operation[T]:
    """Carry out an operation once a name has a generation after the given one.

    RegionNotFound: there is none, and no wait. WaitTimeout: there was none in time.
    """
    if type(after) is not int:
        raise InvalidArgument(f"after is the number of a generation, not {after!r:.40}")
    yield from _wait_after(context, name, after, retry)
    return (yield from operation)


def _wait_after(context: Context, name: str, after: int, retry: Retry) -> Operation[None]:
    yield from _sleep_until_newer(context, name, after, retry)
    generation = yield from _generation(context, name)
    if generation > after:
        return
    if retry.remaining() is None:
        raise RegionNotFound(f"{name!r} has no generation after {after}: {_now(generation)}")
    subscription = yield from operations.listen(
        context, name, lambda event: event.info.name == name and event.info.generation > after
    )
    try:
        generation = yield from _generation(context, name)  # one may have come before the watch
        if generation <= after and (yield Next(subscription, retry.remaining() or 0)) is None:
            raise RegionTimeout(f"{name!r} had no generation after {after} in time: {_now(generation)}")
    finally:
        context.unlisten(subscription)


def _sleep_until_newer(context: Context, name: str, after: int, retry: Retry) -> Operation[None]:
    """Sleep while a region that is mapped here is current, and not newer than the given generation."""
    mapped, left_s = context.mapped.get(name), retry.remaining()
    if mapped is None or mapped.grant.generation > after or not left_s:
        return
    subscription = context.attend()
    try:
        yield from sleep_while_current(context, mapped, subscription, left_s)
    finally:
        context.unlisten(subscription, is_told=False)


def _generation(context: Context, name: str) -> Operation[int]:
    try:
        info = yield from operations.stat(context, name)
    except RegionNotFound:
        return 0
    return info.generation


def _now(generation: int) -> str:
    return f"the current one is {generation}" if generation else "there is no such name"
