"""Operations that wait for a value, which may be in an arena; see `operations`. Do no I/O."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import NoneType
from typing import TypeVar

from shmclient._arenas.held import ArenaValue
from shmclient._arenas.reader import Reader
from shmclient._arenas.resting import Position
from shmclient._arenas.view import ArenaChange, changes_since
from shmclient._connection.exchange import Subscription
from shmclient._connection.retry import Retry
from shmclient._drivers import arenas, operations
from shmclient._drivers.awaited import Since
from shmclient._drivers.sleeping import once_after
from shmclient._drivers.steps import Context, Next, Operation, Remaining
from shmprotocol.errors import Closed, InvalidArgument, RegionNotFound, RegionTimeout

T = TypeVar("T")


def wait_for(
    context: Context,
    name: str,
    since: Since,
    retry: Retry,
    take: Callable[[Remaining], Operation[T]],
    take_in: Callable[[Reader, str], T],
) -> Operation[T]:
    """Return what a name stands for, once it has a generation after the given one, if that is waited for.

    `take` asks the host, and `take_in` looks into an arena. RegionNotFound, RegionTimeout.
    """
    after = since.generation
    if after is not None and type(after) is not int:
        raise InvalidArgument(f"after is the number of a generation, not {after!r:.40}")
    while True:
        reader = arenas.known(context.arenas, name)
        # Another arena of the name counts its own generations; or it is the same one, which is back.
        is_free = since.generation is None or since.reader is not None
        if reader is None and (is_free or "/" in name):
            try:
                result: T = yield from take(retry.wait if is_free else lambda: None)
                reader = arenas.known(context.arenas, name)
                if since.is_over(reader, is_free):
                    return result
                del result
            except RegionNotFound:
                reader = arenas.known(context.arenas, name)
                if is_free and (reader is None or retry.remaining() is None):
                    raise
        if reader is not None:
            value = yield from _wait_in(context, reader, name, since.within(reader), retry, take_in)
            if value is not None:
                return value
            since.generation = None
        elif not is_free:
            after = since.generation or 0
            return (yield from once_after(context, name, after, retry, take(retry.wait)))


def wait_for_all(
    context: Context, names: Sequence[str], retry: Retry, start: Callable[[], Operation[T]]
) -> Operation[T]:
    """Return the result of an operation on several names, of which some may be missing in their arenas."""
    while True:
        try:
            return (yield from start())
        except RegionNotFound:
            missing = _missing_in_arenas(context, names) if retry.remaining() is not None else None
            if missing is None:
                raise
        reader, name = missing
        yield from _wait_in(context, reader, name, 0, retry, lambda reader, name: True)


def _missing_in_arenas(context: Context, names: Sequence[str]) -> tuple[Reader, str] | None:
    for name in names:
        reader = arenas.known(context.arenas, name)
        if reader is not None and not Position(reader, arenas.short_name(name, reader.name)).has_value():
            return reader, name
    return None


def value_after(context: Context, arena: str, name: str, since: Since, retry: Retry) -> Operation[ArenaValue]:
    """Return a handle of a name in an arena, once it has a generation after the given one.

    If another arena takes its place meanwhile, any value of the name in that one.
    """
    if type(since.generation) not in (int, NoneType):
        raise InvalidArgument(f"after is the number of a generation, not {since.generation!r:.40}")
    while True:
        reader = context.arenas.get(arena)
        if reader is None or not reader.is_granted():
            reader = yield from arenas.open_arena(context, arena, False, retry.wait)
        after = since.within(reader)
        value = yield from _wait_in(context, reader, f"{arena}/{name}", after, retry, arenas.handle_in)
        if value is not None:
            return value
        since.generation = None


def _wait_in(
    context: Context,
    reader: Reader,
    name: str,
    after: int,
    retry: Retry,
    take_in: Callable[[Reader, str], T],
) -> Operation[T | None]:
    """Return what a name in an arena stands for, once that is newer; None: the arena has ended."""
    short = arenas.short_name(name, reader.name)
    while True:
        yield from arenas.refresh(context, reader)
        if not reader.was_current():
            return None
        position, wait = Position(reader, short), retry.wait()
        if position.has_value() and position.generation > after:
            try:
                return take_in(reader, name)
            except RegionNotFound:  # it was removed meanwhile
                if wait is None:
                    raise
                continue
        what = f"{short!r} in the arena {reader.name!r} had no generation after {after}"
        if wait is None:
            raise RegionNotFound(f"{what}: its generation is {position.generation}")
        if wait.left_s <= 0:
            raise RegionTimeout(f"{what} within {wait.asked_s:.3g} s")
        yield from arenas.attend(context, reader)
        subscription = context.attend()
        try:
            yield from arenas.stay(context, position, subscription, wait.left_s)
        finally:
            context.unlisten(subscription, is_told=False)


class Changes:
    """The changes of the names of an arena, and of those that take its place; for one iterator."""

    def __init__(self, reader: Reader, since: int) -> None:
        self.reader = reader
        self._since = since
        self._context: Context | None = None
        self._subscription: Subscription | None = None
        self.is_closed = False

    def next(self, context: Context, retry: Retry) -> Operation[list[ArenaChange]]:
        """Return the next changes; none: nothing changed in time, or this was closed."""
        while not self.is_closed:
            yield from arenas.refresh(context, self.reader)
            is_here = context.arenas.get(self.reader.name) is self.reader and self.reader.was_current()
            if not is_here and not (yield from self._open_next(context, retry)):
                break
            yield from arenas.attend(context, self.reader)
            position = self.position()
            if changes := self._take():
                return changes
            left_s = retry.remaining()
            if not left_s:
                break
            yield from self._stay(context, position, left_s)
        return []

    def position(self) -> Position:
        """Return where the arena stands."""
        return Position(self.reader, "")

    def ready(self) -> list[ArenaChange] | None:
        """Return the next changes if they are here, none if this was closed; None: wait for them."""
        return [] if self.is_closed else self._take() or None

    def _take(self) -> list[ArenaChange]:
        changes = changes_since(self.reader, self._since)
        if changes:
            self._since = changes[-1].generation
        return changes

    def _open_next(self, context: Context, retry: Retry) -> Operation[bool]:
        """Go on to the arena that has the name now; False: there was none in time, or this was closed."""
        name = self.reader.name
        subscription = yield from operations.listen(context, name, lambda event: event.info.name == name)
        self._context, self._subscription = context, subscription
        try:
            while not self.is_closed:
                with contextlib.suppress(RegionNotFound):
                    reader = yield from arenas.open_arena(context, name, False, lambda: None)
                    self._since = self._since if reader.is_same_as(self.reader) else 0
                    self.reader = reader
                    return True
                left_s = retry.remaining()
                if not left_s or (yield Next(subscription, left_s)) is None:
                    break
        except Closed:
            if not self.is_closed:
                raise
        finally:
            context.unlisten(subscription)
        return False

    def _stay(self, context: Context, position: Position, left_s: float) -> Operation[None]:
        self._context, self._subscription = context, context.attend()
        try:
            if not self.is_closed:
                yield from arenas.stay(context, position, self._subscription, left_s)
        except Closed:
            if not self.is_closed:
                raise
        finally:
            context.unlisten(self._subscription, is_told=False)

    def close(self) -> None:
        """End it, and whoever waits for it."""
        self.is_closed = True
        if self._context is not None and self._subscription is not None:
            self._context.unlisten(self._subscription, is_told=False)
            self._context.wake()
