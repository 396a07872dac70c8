"""One connection of the async client: it waits for the socket, for any number of tasks of one loop.

The counterpart of `sync`: of the tasks that wait for a reply one reads, for all.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from shmclient._arenas.reader import ClientLedger
from shmclient._connection.exchange import Pending
from shmclient._connection.line import has_ended
from shmclient._connection.retry import Retry, Wait
from shmclient._drivers.answers import dispose, take
from shmclient._drivers.awaited import Awaited
from shmclient._drivers.bell import LOOK_AGAIN_S, Notice
from shmclient._drivers.channel import GRACE_S, BaseChannel, late, unanswered, unsent
from shmclient._drivers.greeting import greeted
from shmclient._drivers.rests import Rests
from shmclient._drivers.steps import Ask, Next, Outcome, Sleep, Stay
from shmprotocol.errors import (
    HostGone,
    RemoteProtocolError,
)
from shmprotocol.native.builtins import HeldValue
from shmprotocol.wire import descriptors, query
from shmprotocol.wire import messages as m

T = TypeVar("T")


class AsyncChannel(BaseChannel):
    """A connected socket, for the tasks of one loop; they serialise the calls of the exchange."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        self.timeout_s = timeout_s
        super().__init__(sock, self._close_socket, self._announce, contextlib.nullcontext())
        # One task reads, one sends what the socket did not take, the others sleep. Cancelling its scope makes
        # any of them look again at what it waits for, and at what there is to be done.
        self._is_reading = False
        self._is_writing = False
        self._waits: dict[anyio.CancelScope, Callable[[], bool]] = {}
        self._sleepers: dict[anyio.CancelScope, Callable[[], bool]] = {}  # some of them, in order
        self._rests = Rests(sock, self._is_over, self._hear_end)
        # Tasks that wait on the socket: the last one closes it, since a closed socket wakes nobody.
        # A task enters and then looks at `_is_closing`; a destructor, on any thread, does the opposite.
        self._users = 0
        self._is_closing = False

    @property
    def has_waits(self) -> bool:
        """Whether tasks wait here."""
        return bool(self._waits) or self._rests.are_in_use

    def is_alive(self) -> bool:
        if self._exchange.failure is not None:
            return False
        if not self.outbox.is_broken and not has_ended(self._sock):
            return True
        self._is_ending = True
        if not self._is_reading:
            self._receive_to_the_end()
        return False

    async def ask(self, step: Ask) -> Outcome:
        """Send a request and wait for its reply; the refusal is raised."""
        if self._exchange.must_settle(step.request):
            await self._wait_until(self._exchange.is_settled, self.timeout_s)
        pending = self._exchange.open(step.request)
        try:
            number = self.outbox.post(step.request, pending, step.descriptors)
            await self._await(pending, step.wait, number)
        except BaseException:
            self._abandon(pending)
            raise
        return take(pending, step.wait)

    async def next_event(self, step: Next) -> m.Event | None:
        """Wait for the next event of a watch; None when the time is over. Closed: it was ended."""
        subscription = step.subscription
        if not await self._wait_until(subscription.is_done, step.wait_s):
            return None
        return subscription.take()

    async def stay(self, step: Stay) -> bool | None:
        """Wait until a value of an arena may have changed; None when the time is over.

        That another arena has taken its place is seen within a second, and so is the end of the host by trio.
        """
        ledger = self.context.ledger
        assert ledger is not None, "who stays has opened an arena"
        limit_s = min(step.wait_s, LOOK_AGAIN_S)
        await self._rests.rest(step.position, ledger, limit_s, step.subscription.is_done)
        if step.subscription.is_done():
            step.subscription.take()
        if not self.is_alive():
            raise HostGone("the connection to the host is over")
        return None if limit_s <= 0 else True

    async def pause(self, step: Sleep) -> None:
        """Wait for a time, or until a value of an arena changes, whose host is gone."""
        ledger, position = self.context.ledger, step.position
        assert position is not None
        if ledger is None or ledger.ledger is not position.reader.ledger:  # of a connection before this
            await anyio.sleep(step.pause_s)
        else:
            end = anyio.current_time() + step.pause_s
            while not self._is_over() and not position.has_moved():
                if (left_s := end - anyio.current_time()) <= 0:
                    break
                await self._rests.rest(position, ledger, left_s, self._is_over)

    async def await_value(
        self, awaited: Awaited, retry: Retry, is_over: Callable[[], bool]
    ) -> HeldValue | None:
        """Return a value of an arena once it is there; None: the plain road is to go on."""
        notice = self.notice(awaited, retry, is_over)
        if isinstance(notice, Notice):
            return await notice
        await anyio.lowlevel.checkpoint()  # so that a loop over values lets others run
        return notice

    def notice(
        self, awaited: Awaited, retry: Retry, is_over: Callable[[], bool]
    ) -> Notice | HeldValue | None:
        """Return what to await for a value of an arena, or the value; None: the plain road is to go on."""
        _, reader, name, after = awaited
        value = reader._newer(name, after)
        if value is not False:
            return value
        ledger, wait_s = self.context.ledger, retry.remaining()
        if ledger is None or not wait_s or not reader.is_attended or not self.is_alive():
            return None
        bell = self._rests.bell(ledger)
        return None if bell is None else bell.notice(reader, name, after, wait_s, is_over)

    def _is_over(self) -> bool:
        """Whether nobody may wait here any more: closed, or the end of a private host.

        The thread of this loop would keep the interpreter from its end.
        """
        if self.outbox.is_closing:
            return True
        return not threading.main_thread().is_alive() and has_ended(self._sock)

    def _hear_end(self) -> None:
        """Have all go on who wait here, if the connection has ended: each finds the next host by itself."""
        if not self.is_alive():
            self._announce()

    def _close_event(self, ledger: ClientLedger) -> None:
        self._rests.close(ledger)

    def _close_socket(self) -> None:
        self._is_closing = True
        if self.outbox.is_detached:
            self._sock.close()
            return
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self._users:
            self._sock.close()

    async def _wait(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._users += 1
        try:
            if not self._is_closing:
                await wait(self._sock)
        finally:
            self._users -= 1
            if self._is_closing and not self._users:
                self._sock.close()

    async def _await(self, pending: Pending, wait: Wait | None, number: int) -> None:
        limit_s = self.timeout_s if wait is None else wait.left_s
        if await self._wait_until(pending.is_done, limit_s):
            return
        if wait is not None:
            # The one reply still comes: the refusal, or what arrived in time.
            self.context.cancel(pending.request.id)
            if await self._wait_until(pending.is_done, GRACE_S):
                return
            raise late(wait.asked_s)
        if not self.outbox.is_sent(number):
            raise unsent(limit_s)
        raise unanswered(pending.request, limit_s)

    async def _wait_until(self, is_ready: Callable[[], bool], limit_s: float) -> bool:
        """Wait, and do meanwhile what nobody else does, until `is_ready`. False when the time is over."""
        deadline = anyio.current_time() + limit_s
        try:
            while not is_ready():
                if anyio.current_time() >= deadline:
                    return False
                with anyio.CancelScope(deadline=deadline) as scope:
                    await self._take_part(scope, is_ready)
            return True
        finally:
            self._pass_on()

    async def _take_part(self, scope: anyio.CancelScope, is_ready: Callable[[], bool]) -> None:
        self._waits[scope] = is_ready
        try:
            if not self._is_reading:
                await self._read(scope, is_ready)
            elif self.outbox.has_unsent and not self._is_writing:
                await self._write()
            else:
                self._sleepers[scope] = is_ready
                await anyio.sleep_forever()
        finally:
            del self._waits[scope]
            self._sleepers.pop(scope, None)

    def _announce(self, reader: anyio.CancelScope | None = None) -> None:
        """Wake all who have what they wait for; not the reader that calls this, which looks by itself."""
        for scope, is_ready in self._waits.items():
            if scope is not reader and is_ready():
                scope.cancel()  # costs asyncio some 100 us: a text about the task, and a turn of the loop
        self._rests.announce(is_failed=self._exchange.failure is not None)

    def _pass_on(self) -> None:
        """Wake one more, who does what nobody does now; called by whoever leaves."""
        if self._is_reading and (self._is_writing or not self.outbox.has_unsent):
            return
        # Without sleepers it is the one that reads, who waits for room to send from then on as well.
        for scope, is_ready in (self._sleepers or self._waits).items():
            if not is_ready():
                scope.cancel()
                return

    async def _read(self, scope: anyio.CancelScope, is_ready: Callable[[], bool]) -> None:
        self._is_reading = True
        try:
            while not is_ready():
                if self.outbox.has_unsent and not self._is_writing:
                    await self._wait_for_either()
                else:
                    await self._wait(anyio.wait_readable)
                self._receive()
                self._announce(scope)
        finally:
            self._is_reading = False
            if self._is_ending:
                self._receive_to_the_end()
                self._announce(scope)

    async def _write(self) -> None:
        self._is_writing = True
        try:
            while self.outbox.has_unsent:
                await self._wait(anyio.wait_writable)
                self.outbox.flush()
        finally:
            self._is_writing = False

    async def _wait_for_either(self) -> None:
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                if not self._is_writing:  # by a task that began before this one did
                    await self._write()
                    tasks.cancel_scope.cancel()

            tasks.start_soon(write)
            await self._wait(anyio.wait_readable)
            tasks.cancel_scope.cancel()

    def _receive_to_the_end(self) -> None:
        while self._exchange.failure is None:
            if not self._receive():
                self._exchange.fail(HostGone("the connection to the host is broken"))
        self.outbox.shut()

    def _receive(self) -> bool:
        """Read once; False when there was nothing to be read."""
        data, owned = b"", descriptors.NONE
        try:
            data, owned = descriptors.receive(self._sock, descriptors.DONTWAIT)
        except BlockingIOError:
            self.outbox.flush()
            return False
        except RemoteProtocolError as error:
            self._exchange.fail(error)
        except OSError:
            pass  # ECONNRESET: the end
        for orphan in self._exchange.receive(data, owned):
            dispose(self.context, *orphan)
        self.outbox.flush()
        self._end_if_failed()
        return True


async def in_thread(call: Callable[[], T]) -> T:
    """Call a function in a thread, and return its result. A cancelled task waits for its end, too.

    The thread has its own task, because asyncio's `task.cancel()`, and so `asyncio.timeout`, also ends what
    anyio shields. The function would run on, and write to a descriptor that is another file's by then.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.to_thread.run_sync, run)
    if errors:
        raise errors.pop()  # out of the list, which is in its traceback: that would be a cycle
    return results.pop()


async def open_channel(path: str, timeout_s: float, connect_s: float) -> AsyncChannel:
    """Connect to a host and greet it. HostGone, AccessDenied: nobody there, or not for us.

    Connecting and greeting take `connect_s` each at most, and `timeout_s` is for what comes after that.
    """
    sock = await _connect(path, connect_s)
    channel = AsyncChannel(sock, connect_s)
    try:
        greeted(channel.context, await channel.ask(Ask(channel.context.greeting())), path)
        channel.timeout_s = timeout_s
    except BaseException:
        channel.outbox.shut()
        channel.outbox.lazy_board.forget()
        raise
    return channel


async def _connect(path: str, connect_s: float) -> socket.socket:
    """The counterpart of `query.connect`; cancelled between two attempts, it leaves no socket."""
    pauses_s = query.pauses(connect_s)
    while (sock := query.try_connect(path)) is None:
        pause_s = next(pauses_s, None)
        if pause_s is None:
            raise query.overloaded(path)
        await anyio.sleep(pause_s)
    return sock
