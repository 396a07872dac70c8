"""Watches, over any number of connections and hosts. Does no I/O: yields steps.

A source belongs to one iterator, which drives it one step at a time; `close` may come from anywhere. The
report of a new host is compared with the last report of its predecessor: a region is the same if host and
number are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from shmclient._connection.exchange import Subscription
from shmclient._connection.retry import Retry
from shmclient._drivers import operations
from shmclient._drivers.steps import Context, Next, Operation
from shmprotocol.errors import (
    Closed,
    HostGone,
    again,
)
from shmprotocol.native.builtins import Current
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_part

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
