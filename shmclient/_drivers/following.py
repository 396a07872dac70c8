"""Watches and followed names, over any number of connections and hosts. Does no I/O: yields steps.

A source belongs to one iterator, which drives it one step at a time; `close` may come from anywhere. The
report of a new host is compared with the last report of its predecessor: a region is the same if host and
number are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from shmclient._arenas.resting import Position
from shmclient._connection.exchange import Subscription
from shmclient._connection.retry import Retry, Wait
from shmclient._drivers import arenas, operations
from shmclient._drivers.sleeping import Fetched, sleep_while_current
from shmclient._drivers.steps import Context, Next, Operation
from shmclient._regions.mapped import Mapped
from shmprotocol.errors import (
    Closed,
    HostGone,
    RegionNotFound,
    RegionTimeout,
    again,
)
from shmprotocol.native.builtins import Current
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_name, check_part, origin_of

if TYPE_CHECKING:
    from shmclient._regions.info import Change, RegionInfo

# For names to come back after a host was killed: clients that are not stopped need some milliseconds.
GRACE_S = 2.0
T = TypeVar("T")


class Listener:
    """A watch at whichever host there is: started anew on each connection."""

    def __init__(self, prefix: str, passes: Callable[[m.Event], bool] | None = None) -> None:
        self._prefix = prefix
        self._passes = passes
        self._context: Context | None = None
        self._subscription: Subscription | None = None
        self._is_told = False  # by the host; else the subscription is of this process alone
        self.is_closed = False

    def is_on(self, context: Context) -> bool:
        """Whether it listens on this connection."""
        return self._context is context and self._is_told

    def host_id(self) -> str:
        """Return the id of the host that it listens to, or did."""
        return self._context.outbox.host_id if self._context is not None else ""

    def origin(self) -> str:
        """Return the origin of the host that it listens to, or did."""
        return self._context.outbox.origin if self._context is not None else ""

    def listen(self, context: Context) -> Operation[Subscription]:
        """Listen on a connection from now on."""
        subscription = yield from operations.listen(context, self._prefix, self._passes)
        return self._begin(context, subscription, is_told=True)

    def attend(self, context: Context) -> Subscription:
        """Return a subscription of which the host knows nothing: it ends with this or the connection."""
        return self._begin(context, context.attend(), is_told=False)

    def _begin(self, context: Context, subscription: Subscription, *, is_told: bool) -> Subscription:
        self._context, self._subscription, self._is_told = context, subscription, is_told
        if self.is_closed:  # meanwhile, by who saw the subscription before
            self.give_up()
            raise Closed("the watch is closed")
        return subscription

    def next(self, retry: Retry) -> Operation[m.Event]:
        """Wait for the next event, without end. Whatever is absent afterwards is absent since then."""
        assert self._subscription is not None
        try:
            event: m.Event = yield Next(self._subscription)
        finally:
            retry.renew()
        return event

    def next_within(self, wait_s: float) -> Operation[m.Event | None]:
        """Wait for the next event; None when the time is over."""
        assert self._subscription is not None
        event: m.Event | None = yield Next(self._subscription, wait_s)
        return event

    def take(self) -> list[m.Event]:
        """Return the events that have come and not been taken, also those of a connection that is gone."""
        events = self._subscription.events if self._subscription is not None else deque()
        return [events.popleft() for _ in range(len(events))]  # more may come meanwhile: those stay

    def failure(self) -> HostGone | None:
        """Return why a connection that it listened on is not the current one any more; None without one."""
        if self._subscription is None:
            return None
        failure = self._subscription.failure
        gone = again(failure) if failure is not None else None
        return gone if isinstance(gone, HostGone) else HostGone("the host of this watch is gone")

    def give_up(self) -> None:
        """End it, at the host too. Never waits; safe in a destructor."""
        if self._context is not None and self._subscription is not None:
            self._context.unlisten(self._subscription, is_told=self._is_told)

    def rest_on(self, context: Context) -> None:
        """Have `close` wake those who wait on a connection, without a subscription."""
        if self._subscription is not None:
            self.give_up()
        self._context, self._subscription, self._is_told = context, None, False

    def has_closed(self) -> bool:
        """Return `is_closed`."""
        return self.is_closed

    def reset(self) -> None:
        """End it for now: the next `listen` starts anew."""
        self.give_up()
        self._context = self._subscription = None

    def close(self) -> None:
        """End it, and whoever waits for its events."""
        self.is_closed = True
        self.give_up()
        if self._context is not None:
            self._context.wake()


class Changes:
    """The changes of all names with a prefix. With `resumes`, they go on at the next host.

    The changes that nobody saw are found by comparing: `unlinked` for each name that is gone, by name, then
    `published` for each whose region is another, then `changed` for another mode. A name that a killed host
    had gets GRACE_S to come back before it counts as gone.
    """

    def __init__(self, prefix: str, *, resumes: bool) -> None:
        # Of an arena above its names the host tells those who wait for one of these.
        self.listener = Listener(check_part("a prefix", prefix), lambda e: e.info.name.startswith(prefix))
        self._prefix = prefix
        self._resumes = resumes
        self._seen: dict[str, tuple[str, RegionInfo]] | None = (
            None  # host and region of each name, if it resumes
        )
        self._pending: deque[Change] = deque()
        self._missing: set[str] = set()  # names that may come back
        self._grace = Retry(None)

    def start(self, context: Context, retry: Retry) -> Operation[None]:
        """Listen on a connection, unless that is so already."""
        if self.listener.is_on(context):
            return
        failure = self.listener.failure()
        if failure is not None and not self._resumes:
            raise failure
        self._take(self.listener.take())  # the last that the host before has told
        is_same = self.listener.host_id() == context.outbox.host_id
        yield from self.listener.listen(context)
        if not self._resumes:
            return
        try:
            infos = yield from operations.list_regions(context, self._prefix)
        except BaseException:
            self.listener.reset()
            raise
        origin = context.outbox.origin
        now = {info.name: (origin, info) for info in infos}
        if self._seen is None:
            # Events since the watch started are reported, even if the list has them already.
            events = self.listener.take()
            changes = _changes(events)
            self._pending += changes
            self._seen = now
            for change in changes:
                self._is_news(change)
        else:
            if not is_same:
                self._missing = {name for name, (host, _) in self._seen.items() if host == origin}
                self._grace = Retry(GRACE_S)
            self._missing -= now.keys()
            now |= {name: self._seen[name] for name in self._missing}
            self._pending += _differences(self._seen, now)
            self._seen = now

    def position(self) -> None:
        """Return None: only the host knows of changes."""

    def pending(self, is_alone: Callable[[Current], bool]) -> Change | None:
        """Return a change that needs no waiting; None without one."""
        if not self._pending:
            self._take(self.listener.take())
        if self._missing and not self._grace.remaining():
            self._give_up_missing()
        return self._pending.popleft() if self._pending else None

    def next(self, context: Context, retry: Retry) -> Operation[Change]:
        """Return the next change."""
        yield from self.start(context, retry)
        while not self._pending:
            if self._missing:
                event = yield from self.listener.next_within(self._grace.remaining() or 0)
            else:
                event = yield from self.listener.next(retry)
            self._take([event] if event is not None else [])
            if self._missing and not self._grace.remaining():
                self._give_up_missing()
        return self._pending.popleft()

    def _give_up_missing(self) -> None:
        """Report names that have not come back as gone."""
        from shmclient._regions.info import Change

        assert self._seen is not None
        for name in sorted(self._missing):
            self._pending.append(Change(kind="unlinked", info=self._seen.pop(name)[1]))
        self._missing.clear()

    def _take(self, events: Iterable[m.Event]) -> None:
        self._pending += filter(self._is_news, _changes(events))

    def _is_news(self, change: Change) -> bool:
        """Note a change. False: the list that was made meanwhile had it already."""
        if self._seen is None:
            return True
        host, info = self.listener.origin(), change.info
        self._missing.discard(info.name)
        previous = self._seen.get(info.name)
        known_number = previous[1].number if previous is not None and previous[0] == host else 0
        if change.kind == "unlinked":
            if known_number != info.number:
                return False
            del self._seen[info.name]
            return True
        if info.number < known_number or (change.kind == "published" and info.number == known_number):
            return False
        self._seen[info.name] = (host, info)
        return True


def _is_of(event: m.Event, name: str) -> bool:
    """Whether an event is of a name, or of an arena that it may be in."""
    return name == event.info.name or name.startswith(f"{event.info.name}/")


def _changes(events: Iterable[m.Event]) -> list[Change]:
    from shmclient._regions.info import change_of  # only for who watches: see `shmclient`

    return [change_of(event) for event in events]


def _differences(
    before: dict[str, tuple[str, RegionInfo]], now: dict[str, tuple[str, RegionInfo]]
) -> list[Change]:
    from shmclient._regions.info import Change

    changes = [
        Change(kind="unlinked", info=info) for name, (_, info) in sorted(before.items()) if name not in now
    ]
    for name, (host, info) in now.items():
        old_host, old = before.get(name, ("", None))
        if old is None or (old_host, old.number) != (host, info.number):
            changes.append(Change(kind="published", info=info))
        elif old.mode != info.mode:
            changes.append(Change(kind="changed", info=info))
    return changes


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
        last = self._here(context)
        if not isinstance(last, Position) or self.listener.is_closed:
            return None
        self.listener.rest_on(context)
        return last

    def position(self) -> Position | None:
        """Return where the last value stands, if that is in an arena: a change there needs no host."""
        return self._last if isinstance(self._last, Position) else None

    def pending(self, is_alone: Callable[[Current], bool]) -> Any:
        """Return the next value if it is in an arena without a host; else it is asked for, to be the newest.

        `is_alone` says whether the last host left a region as the current one, and there is none now.
        """
        last = self.position()
        if last is None or not is_alone(last.reader.current):
            return None
        held = last.reader._hold(last.name)
        return None if held is None or held.generation <= last.generation else last.take(held)

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
