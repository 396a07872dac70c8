"""One client without its waiting: connecting, reconnecting and retrying as steps. Does no I/O.

The sync and the async client carry out the same steps, each in its own way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from shmclient._arenas.reader import Reader
from shmclient._arenas.resting import Position
from shmclient._connection.retry import Attempts, Retry, is_final, others_connect
from shmclient._connection.socket import detach_after_fork
from shmclient._drivers import arenas, getting, operations, putting, returning
from shmclient._drivers.arena_waits import wait_for, wait_for_all
from shmclient._drivers.awaited import Awaited, Since
from shmclient._drivers.boards import living_board
from shmclient._drivers.channel import BaseChannel
from shmclient._drivers.steps import Acquire, Connect, Context, Drive, Operation, Remaining, Sleep
from shmclient._regions.mapped import Mapped
from shmclient._regions.region import RegionHandle
from shmprotocol.errors import ClientClosed, HostGone, HostTimeout, RegionClosed
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.native.builtins import Current, Home

LOOK_FOR_HOST_S = 0.01  # between two looks, which take 25 us each
T = TypeVar("T")
R = TypeVar("R", bound=RegionHandle)
C = TypeVar("C", bound=BaseChannel)


class Core(Generic[C]):
    """The connection of a client, a new one after its end.

    `new_lock` makes a lock that a thread or task owns while it connects.
    """

    def __init__(
        self, socket_path: str, timeout_s: float, new_lock: Callable[[], Any], reserve: int = 0
    ) -> None:
        self.socket_path = socket_path
        self.timeout_s = operations.check_timeout(timeout_s)
        self._reserve = putting.check_reserve(reserve)
        self.is_closed = False
        self.channel: C | None = None
        self.mapped: dict[str, Mapped] = {}  # of the last connection
        self.arenas: dict[str, Reader] = {}  # likewise
        self._alone_until_s = 0.0  # there was no host, and until then none is looked for
        self._attempts = Attempts(timeout_s)
        self._homes: list[tuple[str, Home]] = []  # of connections whose regions the next host may get back
        self._new_lock = new_lock
        self._lock = new_lock()
        detach_after_fork(self, Core._detach)

    def live(self) -> C | None:
        """Return the connection if it takes requests. Lets go of arenas that have ended."""
        channel = self.channel
        if self.arenas:
            arenas.forget_ended(self.arenas)
        return channel if channel is not None and channel.is_alive() else None

    def connected(self, limit_s: float | None = None) -> Operation[C]:
        """Return a live connection, a new one if necessary, within `limit_s`."""
        if (channel := self.live()) is not None:
            if channel.outbox.lazy_board.has_moved():
                yield Drive(channel, living_board(channel.context))
            return channel
        over, end = self._attempts.over, time.monotonic() + (limit_s or 0)
        lock, turn_s = self._lock, self._attempts.limit(limit_s)
        try:
            if not (yield Acquire(lock, turn_s)):
                raise others_connect(self.socket_path, turn_s)
            left = None if limit_s is None else end - time.monotonic()
            return (yield from self._connect(left, over))
        finally:
            # Not only if it was acquired: Ctrl-C can come before that is known.
            with contextlib.suppress(RuntimeError):
                lock.release()

    def run_waiting(
        self,
        start: Callable[[Context, Retry], Operation[T]],
        wait: float | Retry | None,
        ready: Callable[[], T | None] = lambda: None,
        position_of: Callable[[], Position | None] = lambda: None,
    ) -> Operation[T]:
        """Run an operation that may wait; a wait outlives its host and continues with the next one.

        `wait` is the seconds, or what is left of them. `ready` is called after each failed attempt: a result
        or an exception of it ends the wait. So does a change at the `position_of` a value in an arena, whose
        owner needs no host.
        """
        retry = wait if isinstance(wait, Retry) else Retry(wait)
        while True:
            try:
                channel = yield from self.connected(retry.remaining())
                retry.connected()
                result: T = yield Drive(channel, start(channel.context, retry))
                return result
            except (HostGone, HostTimeout) as error:
                self.note_absence()
                position = position_of()  # before the look: a change after it ends the pause
                if (item := ready()) is not None:
                    return item
                if is_final(self.socket_path):
                    raise
                pause_s = retry.pause(error)
            yield from self._pause(pause_s, position)
            if position is not None and (item := ready()) is not None:
                return item

    def _pause(self, pause_s: float, position: Position | None) -> Operation[None]:
        channel = self.channel
        if position is None or channel is None:
            yield Sleep(pause_s)
        else:
            yield Drive(channel, arenas.pause(position, pause_s))

    def start(self, wait_s: float | None) -> Operation[None]:
        """Connect for the first time."""
        return self.run_waiting(lambda context, retry: operations.nothing(), wait_s)

    def board_of(self, host_id: str) -> Board | None:
        """Return the board of a host, if it is the one of the last connection."""
        outbox = self.channel.outbox if self.channel is not None else None
        return outbox.board if outbox is not None and outbox.host_id == host_id else None

    def mapped_value(self, name: str) -> Any:
        """Return the value of a name that is mapped here and current; None if the host must be asked.

        While there is no host, its last word counts, and the next one is looked for now and then.
        """
        if type(name) is not str:  # which is refused by who asks the host
            return None
        mapped = self.mapped.get(name)
        if mapped is not None and (mapped._is_granted() or self.is_alone(mapped)):
            try:
                return mapped.value()
            except RegionClosed:  # its last view went meanwhile
                pass
        reader = arenas.known(self.arenas, name)
        if reader is not None and self.is_alone(reader.current):
            return reader._get(name[len(reader.name) + 1 :], None)
        return None

    def may_be_fetched(self, name: str) -> bool:
        """Whether an Open of this name can only bring what is not mapped here."""
        mapped = self.mapped.get(name) if type(name) is str else None
        return mapped is None or mapped.is_superseded()

    def is_alone(self, region: Current) -> bool:
        """Whether the last host left a region as the current one, and there was none just now."""
        return not self.is_closed and time.monotonic() < self._alone_until_s and region._was_current()

    def note_absence(self) -> None:
        """Note that there is no host: for a moment its last word counts, and none is looked for."""
        self._alone_until_s = time.monotonic() + LOOK_FOR_HOST_S

    def get(
        self, name: str, after: int | None, retry: Retry, anywhere: bool, short: Awaited | None
    ) -> Operation[Any]:
        """Return the value of a name, which was awaited by the short road before."""
        since = Since(after, None if short is None else short.reader)

        def start(context: Context, retry: Retry) -> Operation[Any]:
            def take(wait: Remaining) -> Operation[Any]:
                return operations.get(context, name, wait, anywhere)

            return wait_for(context, name, since, retry, take, lambda *where: arenas.value_in(*where)[0])

        def ready() -> Any:
            if after is None:  # in place of the error: the last value, if it was the current one
                return self.mapped_value(name)
            newer = since.newer(name)
            return None if newer is None else newer.value()

        return self.run_waiting(start, retry, ready, lambda: since.position(name))

    def open(
        self,
        kind: type[R],
        name: str,
        after: int | None,
        retry: Retry,
        anywhere: bool,
        short: Awaited | None,
    ) -> Operation[list[R]]:
        """Return a handle of the current region of a name, mapped, in a list."""
        since = Since(after, None if short is None else short.reader)

        def start(context: Context, retry: Retry) -> Operation[list[R]]:
            def take(wait: Remaining) -> Operation[list[Any]]:
                return operations.open_many(context, kind, (name,), wait, anywhere)

            return wait_for(context, name, since, retry, take, lambda *where: [arenas.handle_in(*where)])

        def ready() -> list[Any] | None:
            newer = since.newer(name)
            return None if newer is None else [newer]

        return self.run_waiting(start, retry, ready, lambda: since.position(name))

    def open_many(
        self, kind: type[R], names: Sequence[str], wait_s: float | None, anywhere: bool
    ) -> Operation[list[R]]:
        """Return a handle for each name, mapped."""

        def start(context: Context, retry: Retry) -> Operation[list[R]]:
            return wait_for_all(
                context,
                names,
                retry,
                lambda: operations.open_many(context, kind, names, retry.wait, anywhere),
            )

        return self.run_waiting(start, wait_s)

    def get_many(self, names: Sequence[str], wait_s: float | None, anywhere: bool) -> Operation[list[Any]]:
        """Return the value of each name."""

        def start(context: Context, retry: Retry) -> Operation[list[Any]]:
            return wait_for_all(
                context,
                names,
                retry,
                lambda: getting.get_many(context, names, retry.wait, anywhere, self.mapped_value),
            )

        return self.run_waiting(start, wait_s)

    def open_arena(self, name: str, wait_s: float | None, anywhere: bool) -> Operation[Reader]:
        """Return the reader of an arena."""
        return self.run_waiting(
            lambda context, retry: arenas.open_arena(context, name, anywhere, retry.wait), wait_s
        )

    def close(self) -> None:
        """Close the connection, and make no other."""
        self.is_closed = True
        self.mapped, self.arenas = {}, {}
        channel, self.channel = self.channel, None
        if channel is not None:
            channel.close()
            channel.outbox.lazy_board.end()

    def give_up(self) -> None:
        """Close the connection of a client that nobody can use any more. Safe in a destructor."""
        if self.channel is not None:
            self.channel.context.spares.close()
            self.channel.context.arenas.clear()
            self.channel.outbox.close()  # nobody can be waiting: that would keep the client
            self.channel.outbox.lazy_board.forget()

    def _connect(self, left_s: float | None, over: int) -> Operation[C]:
        self._check_open()
        if (channel := self.live()) is None:
            if self.channel is not None:  # it is over, but views may keep it
                self.channel.context.spares.close()
                self.channel.outbox.lazy_board.close()
            with self._attempts.next(left_s, over) as connect_s:
                channel = yield Connect(connect_s)
            yield from self._hand_back(channel)
            self.channel = channel
            self.arenas.clear()  # they are those of the host before
            self.mapped, self.arenas = channel.context.mapped, channel.context.arenas
            if self._reserve:
                yield Drive(channel, putting.reserve(channel.context, self._reserve))
            if self.is_closed:  # closed meanwhile, by a thread or task that did not see the new connection
                self.close()
                self._check_open()
        return channel

    def _hand_back(self, channel: C) -> Operation[None]:
        """Hand back what earlier connections have left, before anybody asks for it on this one."""
        homes, self._homes = self._homes, []
        outbox = channel.outbox
        if outbox.home is None:
            return
        if not homes:  # the first connection: another step takes 10 us
            self._homes = [(outbox.host_id, outbox.home)]
            return
        try:
            yield Drive(channel, returning.hand_back(channel.context, homes))
            yield from returning.await_arenas(channel.context, homes)
        except BaseException:
            channel.close()
            raise
        finally:
            owning = [(host_id, home) for host_id, home in homes if home.owners()]
            self._homes = [*owning, (outbox.host_id, outbox.home)]

    def _check_open(self) -> None:
        if self.is_closed:
            raise ClientClosed("the client is closed: connect again")

    def _detach(self) -> None:  # in the child of a fork: start without the parent's connection
        self._homes = []
        self._lock = self._new_lock()
        self.channel = None
        self.mapped, self.arenas = {}, {}
