"""Requests in flight: which reply is whose, and what becomes of a reply that nobody waits for any more.

Shared by the sync and the async channel; pure, as the connection below it: no socket, thread or clock.
A caller with threads serialises the calls.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

from shmprotocol.abi.header import FLAG_ARENA
from shmprotocol.errors import HostGone, RemoteProtocolError, ShmError, again
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection
from shmprotocol.wire.descriptors import NONE, Owned


class Pending:
    """A request in flight, and its reply. `descriptors` belong to whoever takes the reply."""

    __slots__ = ("descriptors", "failure", "is_posted", "reply", "request")

    def __init__(self, request: m.Message | None) -> None:
        self.request: Any = request  # None: of the fast road, which says later what it is
        self.is_posted = False
        self.reply: m.Message | None = None
        self.descriptors = NONE
        self.failure: ShmError | None = None

    def is_done(self) -> bool:
        """Whether there is a reply, or there never will be one."""
        return self.reply is not None or self.failure is not None

    def is_wait(self) -> bool:
        """Whether the host may take as long as it likes."""
        return isinstance(self.request, m.Open) and self.request.wait


class Subscription:
    """The events of one watch that nobody has taken yet; with a filter, those that pass it."""

    __slots__ = ("_passes", "events", "failure", "id")

    def __init__(self, number: int, passes: Callable[[m.Event], bool] | None = None) -> None:
        self.id = number
        self.events: deque[m.Event] = deque()
        self.failure: ShmError | None = None
        self._passes = passes

    def add(self, event: m.Event) -> None:
        """Take an event that came."""
        if self._passes is None or self._passes(event):
            self.events.append(event)

    def is_done(self) -> bool:
        """Whether there is an event, or there never will be one."""
        return bool(self.events) or self.failure is not None

    def take(self) -> m.Event:
        """Return the oldest event, or raise why there will be none; for one that `is_done`."""
        if self.events:
            return self.events.popleft()
        assert self.failure is not None
        raise again(self.failure)


Orphan = tuple[m.Message, Owned]


_MAKING = (m.Create, m.Put, m.Arena)  # requests for new regions, which take a name


class Exchange:
    """The client's side of a connection: pending requests by request id, subscriptions by watch id."""

    def __init__(self) -> None:
        self._connection = Connection("client", Owned)
        self._pending: dict[int, Pending] = {}
        self._abandoned: set[int] = set()
        self._watches: dict[int, Subscription] = {}
        self._closed: ShmError | None = None
        self.failure: ShmError | None = None
        self.ledger = Owned()  # a ledger that came, and its eventfd, until they are taken
        self.ledger_number = 0

    @property
    def pendings(self) -> dict[int, Pending]:
        """The requests in flight: the fast road notes its own here, too."""
        return self._pending

    def is_between_frames(self) -> bool:
        """Whether nothing of a further message has come."""
        return self.failure is None and self._connection.is_between_frames

    def open(self, request: m.Message) -> Pending:
        """Note a request that is about to be sent, and whose reply is awaited."""
        pending = Pending(request)
        pending.failure = self.failure
        if pending.failure is None:
            self._pending[request.id] = pending
        return pending

    def abandon(self, pending: Pending) -> Orphan | None:
        """Give a request up. Returns a reply that is there already; a later one will be an orphan."""
        if self._pending.pop(pending.request.id, None) is not None:
            if pending.is_posted:
                self._abandoned.add(pending.request.id)
        elif pending.reply is not None:
            return pending.reply, pending.descriptors
        return None

    def watch(self, subscription: Subscription) -> None:
        """Start to give a watch its events. Needs no serialising."""
        self._watches[subscription.id] = subscription
        if (
            failure := self.failure or self._closed
        ):  # set before the watches are ended, so one of us sees the other
            self.unwatch(subscription, failure)

    def is_watched(self, subscription: Subscription) -> bool:
        """Whether a watch gets its events still."""
        return subscription.id in self._watches

    def unwatch(self, subscription: Subscription, error: ShmError) -> None:
        """End a watch: whoever waits for an event gets the error.

        Needs no serialising: a destructor calls it, on any thread.
        """
        subscription.failure = subscription.failure or error
        self._watches.pop(subscription.id, None)

    def must_settle(self, request: m.Message) -> bool:
        """Whether a request must wait until the exchange `is_settled`: it is a Create, Put or
        Arena, and an earlier one of its name may have been given up, which is undone when its reply comes.
        """
        return bool(self._abandoned) and type(request) in _MAKING and not self.is_settled()

    def is_settled(self) -> bool:
        """Whether every request that was given up is answered; until then their effects stay."""
        return not self._abandoned or self.failure is not None

    def end_waits(self, error: ShmError) -> list[int]:
        """End what may wait for long, for its end is nobody's any more; return the ids to cancel.

        Requests that are answered at once are still in flight. They, too, get the error when the connection
        ends now.
        """
        self._closed = error
        waits = [
            pending
            for pending in self._pending.values()
            if isinstance(pending.request, m.Open) and pending.request.wait
        ]
        for pending in waits:
            pending.failure = error
            self.abandon(pending)
        return [pending.request.id for pending in waits] + self._end_watches(error)

    def receive(self, data: bytes, descriptors: Owned) -> list[Orphan]:
        """Take what one read gave, `b""` for the end; give the replies to their requests; return the rest.

        An error of the peer fails every pending, those of the future too; it is in `failure`.
        """
        orphans = []
        try:
            if not data:  # in the middle of a frame, too: a host that is killed ends anywhere
                raise HostGone("the host closed the connection: it stopped, or dropped this client")
            self._connection.receive(data, descriptors)
            for message, owned in self._connection.messages():
                assert isinstance(owned, Owned)
                orphan = self._dispatch(message, owned)
                if orphan is not None:
                    orphans.append(orphan)
        except (HostGone, RemoteProtocolError) as error:
            self.fail(error)
        return orphans

    def fail(self, error: ShmError) -> None:
        """Fail every pending, now and later. The first error stays."""
        if self.failure is None:
            self.failure = again(self._closed or error)
        for pending in self._pending.values():
            pending.failure = self.failure
        self._pending.clear()
        self._end_watches(self.failure)

    def drain(self) -> list[int]:
        """Return the descriptors that came with no whole message; they are the caller's to close."""
        return self._connection.drain()

    def _dispatch(self, message: m.Message, descriptors: Owned) -> Orphan | None:
        if type(message) is m.Goodbye:
            raise RemoteProtocolError(f"the host dropped this client: {message.text}")
        if type(message) is m.Event:
            subscription = self._watches.get(message.id)
            if subscription is not None:
                subscription.add(message)
            return None
        if type(message) is m.Opened and message.ledger[1]:
            message = self._keep_ledger(message, descriptors)
        pending = self._pending.pop(message.id, None)
        if pending is not None:
            pending.reply, pending.descriptors = message, descriptors
            return None
        if message.id not in self._abandoned:
            name = type(message).__name__
            self.fail(RemoteProtocolError(f"{name} answers no request ({message.id})"))
        self._abandoned.discard(message.id)
        return message, descriptors

    def _keep_ledger(self, opened: m.Opened, descriptors: Owned) -> m.Opened:
        """Keep a ledger, which comes once, also with a reply that nobody waits for any more."""
        is_whole = len(descriptors) == m.descriptors_of(opened)
        if not is_whole or self.ledger or not any(grant.flags & FLAG_ARENA for grant in opened.grants):
            return opened
        self.ledger_number = opened.ledger[0]
        self.ledger.extend(map(descriptors.pop, (-2, -1)))
        return opened._replace(ledger=(0, 0))

    def _end_watches(self, error: ShmError) -> list[int]:
        ended = []
        with contextlib.suppress(KeyError):  # that none is left; a destructor may take some meanwhile
            while True:
                number, subscription = self._watches.popitem()
                subscription.failure = error
                ended.append(number)
        return ended
