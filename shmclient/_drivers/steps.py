"""The steps of operations, and what the operations of one connection share. Does no I/O."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

from shmclient._arenas.reader import ClientLedger, Reader
from shmclient._arenas.resting import Position
from shmclient._connection.exchange import Exchange, Subscription
from shmclient._connection.outbox import Outbox
from shmclient._connection.retry import Wait
from shmclient._process.lock import new_lock
from shmclient._regions.mapped import Mapped
from shmclient._regions.spares import Spares
from shmprotocol.errors import Closed, HostGone
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m


class Ask(NamedTuple):
    """A request; its outcome is (reply, descriptors), or the refusal raised.

    `wait`: how long the host may take; after that the request is cancelled and WaitTimeout raised.
    None: as long as any other request. `descriptors` go with it; they stay the caller's.
    """

    request: m.Message
    wait: Wait | None = None
    descriptors: Sequence[int] = ()


class Run(NamedTuple):
    """A call that takes time in proportion to `size` bytes; its outcome is its result."""

    call: Callable[[], Any]
    size: int


class Next(NamedTuple):
    """The next event of a watch; its outcome is the Event, or None after `wait_s`."""

    subscription: Subscription
    wait_s: float = math.inf


class Look(NamedTuple):
    """A sleep until a line of the board changes, whose addresses these are, or the host goes.

    `changes` is the number of the line before it was looked at. Its outcome is True, None after `wait_s`, or
    False if nobody can sleep so here. An end of the subscription is raised. With a name, the outcome may also
    be a Got: what the name stands for by then, fetched before anything else.
    """

    subscription: Subscription
    line: int
    owner: int
    changes: int
    wait_s: float = math.inf
    name: str = ""
    anywhere: bool = False


class Stay(NamedTuple):
    """A rest until a value of an arena may have changed, or its arena; outcome as that of a Look."""

    subscription: Subscription
    position: Position
    line_changes: int
    wait_s: float = math.inf


class Fetch(NamedTuple):
    """A region that is not mapped here, by the fast road; its outcome is a Got, or False if that is busy."""

    name: str
    anywhere: bool


class Drive(NamedTuple):
    """An operation on a connection; its outcome is its result."""

    channel: Any
    operation: Operation[Any]


class Connect(NamedTuple):
    """A new connection to the host, and its greeting, within the time; its outcome is the channel."""

    connect_s: float


class Acquire(NamedTuple):
    """A lock, for the task or thread that asks; its outcome is whether it was acquired in time."""

    lock: Any
    limit_s: float


class Sleep(NamedTuple):
    """A pause. On a connection a change at a position in an arena ends it, for which no host is needed."""

    pause_s: float
    position: Position | None = None


Step = Ask | Run | Next | Look | Stay | Fetch | Drive | Connect | Acquire | Sleep
Outcome = tuple[Any, fds.Owned]  # a reply and its descriptors
Remaining = Callable[[], Wait | None]  # what is left of a wait; None: no wait
T = TypeVar("T")
Operation = Generator[Step, Any, T]


class Context:
    """The state that the operations of one connection share: outgoing messages, and mapped regions by name.

    `wake` has those who wait for events look again. `version` is that of the wire, known from the greeting.
    """

    def __init__(self, outbox: Outbox, exchange: Exchange, wake: Callable[[], None]) -> None:
        self.outbox = outbox
        self.exchange = exchange
        self.wake = wake
        self.mapped: dict[str, Mapped] = {}  # while a view keeps the mapping
        self.arenas: dict[str, Reader] = {}  # those that were opened
        self.ledger: ClientLedger | None = None  # from the first arena on
        self.ledger_lock = new_lock()
        self.version = m.VERSION_MIN
        self.spares = Spares(outbox)

    def greeting(self) -> m.Hello:
        """Return the first message of a connection."""
        return m.Hello(self.outbox.next_id(), m.VERSION_MIN, m.VERSION, "shmclient for Python")

    def cancel(self, target: int) -> None:
        """Tell the host that nobody waits for a request or watch any more. Never waits, never raises."""
        if self.exchange.failure is None and not self.outbox.is_broken:
            with contextlib.suppress(HostGone):
                self.outbox.post(m.Cancel(0, target))

    def attend(self, passes: Callable[[m.Event], bool] | None = None) -> Subscription:
        """Return a new subscription, of which the host knows nothing yet; with a filter as in `listen`."""
        subscription = Subscription(self.outbox.next_id(), passes)
        self.exchange.watch(subscription)
        return subscription

    def unlisten(self, subscription: Subscription, *, is_told: bool = True) -> None:
        """End a watch, of which the host `is_told`. Never waits, and takes no lock: safe in a destructor."""
        if self.exchange.is_watched(subscription):
            if is_told:  # first: after Ctrl-C in between, the next call does it all again
                self.cancel(subscription.id)
            self.exchange.unwatch(subscription, Closed("the watch is closed"))
