"""The values of a followed name, over any number of connections and hosts; see `following`. Does no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from shmclient._arenas.resting import Position
from shmclient._connection.retry import Retry, Wait
from shmclient._drivers import arenas, operations
from shmclient._drivers.following import Listener
from shmclient._drivers.sleeping import Fetched, sleep_while_current
from shmclient._drivers.steps import Context, Operation
from shmclient._regions.mapped import Mapped
from shmprotocol.errors import RegionNotFound, RegionTimeout
from shmprotocol.native.builtins import Current, HeldValue
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_name, origin_of


class Values:
    """The value of one name, and each newer one: of those that came meanwhile, the newest.

    While the last value is current, a thread sleeps on its line of the board. Event loops are told by the
    host, and so is everybody who waits for a name that is missing.
    """

    def __init__(self, name: str, *, anywhere: bool, can_sleep: bool) -> None:
        self._name = check_name(name)
        self._anywhere = anywhere
        self._can_sleep = can_sleep
        # The region that was given last, and its host; or where its value stands, as a connection reads it.
        self._last: Mapped | Position | None = None
        self._host_id = ""
        self.listener = Listener(name, lambda event: event.kind != "changed" and _is_of(event, name))

    def start(self, context: Context, retry: Retry) -> Operation[None]:
        """Listen on a connection, unless that is so already."""
        if not self.listener.is_on(context):
            yield from self.listener.listen(context)

    def place(self, context: Context) -> Position | None:
        """Return where the last value stands, if that is in an arena of this connection."""
        last = self._last  # as `_here`, without a call
        if not isinstance(last, Position) or context.arenas.get(last.reader.name) is not last.reader:
            return None
        if self.listener.is_closed:
            return None
        self.listener.rest_on(context)
        return last

    def position(self) -> Position | None:
        """Return where the last value stands, if that is in an arena: a change there needs no host."""
        last = self._last
        return last if isinstance(last, Position) and last.reader.may_be_read_alone() else None

    def pending(self, is_alone: Callable[[Current], bool]) -> Any:
        """Return the next value if it is in an arena without a host; else it is asked for, to be the newest.

        `is_alone` says whether the last host left a region as the current one, and there is none now.
        """
        last = self._last
        if not isinstance(last, Position) or not is_alone(last.reader.current) or self.position() is None:
            return None
        held = last.reader._hold(last.name)
        if held is None or held.generation <= last.generation or last.reader._value(held) is None:
            return None  # a None that is a value is told at the next host
        return self._take(last, held)

    def _take(self, position: Position, held: HeldValue) -> Any:
        return position.take(held)

    def _here(self, context: Context) -> Mapped | Position | None:
        """Return what was given last, unless it is in an arena as another connection reads it."""
        last = self._last
        if isinstance(last, Position) and context.arenas.get(last.reader.name) is not last.reader:
            return None
        return last

    def next(self, context: Context, retry: Retry) -> Operation[Any]:
        """Return the current value, once it is another than the last one."""
        is_same = context.outbox.host_id == self._host_id
        if origin_of(self._host_id) != context.outbox.origin and not isinstance(self._last, Position):
            self._last = None
        self._host_id = context.outbox.host_id
        # The line of the last value is that of the host before: whether it is current must be asked.
        news = (yield from self._sleep(context, retry)) if is_same else None
        if news is not None:
            value, self._last = news
            return value
        while True:
            self.listener.take()  # the answer to what is asked now is newer than all of them
            other = yield from self._look(context)
            if other:
                value, self._last = other
                if isinstance(self._last, Position) or (self._can_sleep and self._last.grant.line):
                    self.listener.reset()  # nobody would read what the host tells
                return value
            last = self._here(context)
            if isinstance(last, Position) and last.reader.was_current():
                yield from self._sleep(context, retry)
            elif not self.listener.is_on(context):
                yield from self.listener.listen(context)  # and ask again: it may have come before
            elif other is False:
                yield from self._wait_for_name(retry)
            else:
                yield from self.listener.next(retry)

    def _look(self, context: Context) -> Operation[tuple[Any, Any] | Literal[False] | None]:
        """Return the value with its mapping or position. None: it is the last one; False: there is none."""
        last = self._here(context)
        while True:
            try:
                other = yield from operations.get_other(context, self._name, last, self._anywhere)
                break
            except RegionNotFound:
                reader = arenas.known(context.arenas, self._name)
                if reader is None:
                    return False
            # The host is not told of names in arenas.
            position = Position(reader, arenas.short_name(self._name, reader.name))
            if not position.has_value():
                self._last = position
                return False
            last = None  # it has one by now
        if other is not None and isinstance(other[1], Position) and self._has_given(other[1]):
            self._last = other[1]  # of this connection
            return None
        return other

    def _has_given(self, position: Position) -> bool:
        return isinstance(self._last, Position) and position.is_same_as(self._last)

    def _sleep(self, context: Context, retry: Retry) -> Operation[Fetched | None]:
        """Return when the last value may not be current any more, or at once if nobody can sleep on it.

        If the next one was fetched already, return that and its mapping.
        """
        last = self._here(context)
        if isinstance(last, Position):
            yield from self._stay(context, last, retry)
            return None
        if last is None or not last.grant.line or not self._can_sleep:
            return None
        subscription, fetch = self.listener.attend(context), (self._name, self._anywhere)
        try:
            answer = yield from sleep_while_current(context, last, subscription, fetch=fetch)
        finally:
            self.listener.reset()
            retry.renew()  # what is absent afterwards is absent since then
        self._can_sleep = bool(answer)
        return answer if isinstance(answer, tuple) else None

    def _stay(self, context: Context, last: Position, retry: Retry) -> Operation[None]:
        """Return when a name in an arena has another value, or when that is another arena."""
        yield from arenas.attend(context, last.reader)
        subscription = self.listener.attend(context)
        try:
            position = last
            while position.reader.was_current() and not (last.has_changed() and last.has_value()):
                is_there = last.has_value()
                wait_s = math.inf if is_there else self._check_absence(retry).left_s
                yield from arenas.stay(context, position, subscription, wait_s)
                position = Position(last.reader, last.name)
                if is_there:
                    retry.renew()
        finally:
            self.listener.reset()
            retry.renew()

    def _wait_for_name(self, retry: Retry) -> Operation[None]:
        if (yield from self.listener.next_within(self._check_absence(retry).left_s)) is None:
            self._check_absence(retry)

    def _check_absence(self, retry: Retry) -> Wait:
        """Return how long the name may be absent still. RegionNotFound, RegionTimeout: no longer."""
        wait = retry.wait()
        if wait is None:
            raise RegionNotFound(f"there is no region {self._name!r}, and no wait for it")
        if wait.left_s <= 0:
            raise RegionTimeout(f"{self._name!r} did not appear within {wait.asked_s:.3g} s")
        return wait


def _is_of(event: m.Event, name: str) -> bool:
    """Whether an event is of a name, or of an arena that it may be in."""
    return name == event.info.name or name.startswith(f"{event.info.name}/")
