"""One connection of the async client: it waits for the socket, for any number of tasks of one loop.

The counterpart of `_channel`: of the tasks that wait for a reply one reads, for all.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable

import anyio

from shmclient._connection.exchange import Exchange, Slot
from shmclient._connection.outbox import Outbox
from shmclient._connection.socket import detach_after_fork, has_ended
from shmclient._drivers.operations import Ask, Context, Outcome, dispose, greeted, take
from shmclient._process.address_space import ADDRESS_SPACE
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError, again
from shmprotocol.wire import descriptors, query
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_part


class AsyncChannel:
    """A connected socket. Closed by `close`, or with the last lease after that."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._sock = sock
        self.timeout_s = timeout_s
        self._exchange = Exchange()
        self.outbox = Outbox(sock, self._close_socket)
        self.context = Context(self.outbox)
        self._is_reading = False
        self._is_ending = False  # its end is there to be read, or it was closed while it was read
        self._news = anyio.Event()  # set when something was read, or the reader left
        detach_after_fork(self, AsyncChannel.detach)

    @property
    def is_broken(self) -> bool:
        """Whether every further request would fail."""
        return self._exchange.failure is not None or self.outbox.is_broken

    def is_alive(self) -> bool:
        """Whether a request may be sent: also looks for the end of a host that went while nobody asked."""
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
        slot = self._exchange.open(step.request)
        try:
            await self._send(step.request)
            await self._await(slot, step.wait_s)
        except BaseException:
            self._abandon(slot)
            raise
        return take(slot, step.wait_s)

    async def watch(self, prefix: str) -> tuple[int, deque[m.Event]]:
        """Start a watch; return its id and the queue of its events."""
        request = m.Watch(self.outbox.next_id(), check_part("a prefix", prefix))
        events = self._exchange.watch(request.id)
        try:
            await self.ask(Ask(request))
        except BaseException:
            self.unwatch(request.id)
            raise
        return request.id, events

    async def next_event(self, events: deque[m.Event]) -> m.Event:
        """Wait for an event of a watch."""
        await self._read_until(lambda: bool(events) or self._exchange.failure is not None)
        if events:
            return events.popleft()
        assert self._exchange.failure is not None
        raise again(self._exchange.failure)

    def unwatch(self, request: int) -> None:
        """End a watch. Never waits."""
        self._exchange.unwatch(request)
        if not self.is_broken:
            with contextlib.suppress(HostGone):
                self.outbox.post(m.Cancel(0, request))

    def close(self) -> None:
        """Close the connection; what is mapped keeps it open until its last view goes."""
        self.outbox.close()

    def detach(self) -> None:
        """In the child of a fork: let go of the parent's connection."""
        self._exchange.fail(HostGone("this connection belongs to the parent process"))
        self.outbox.detach()

    def _close_socket(self) -> None:
        if not self.outbox.is_detached:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            if self._is_reading:  # the shutdown wakes it; nothing would wake who waits for a closed socket
                self._is_ending = True
                return
        self._sock.close()

    async def _send(self, request: m.Message) -> None:
        is_sent = self.outbox.post(request)
        with anyio.move_on_after(self.timeout_s):
            while not is_sent:
                await anyio.wait_writable(self._sock)
                is_sent = self.outbox.flush()
        if not is_sent:
            raise HostTimeout(f"the host took no request for {self.timeout_s} s: is it stopped?")

    async def _await(self, slot: Slot, wait_s: float | None) -> None:
        if wait_s is not None:
            with anyio.move_on_after(wait_s):
                await self._read_until(slot.is_done)
            if slot.is_done():
                return
            # The one reply still comes: the refusal, or what arrived in time.
            self.outbox.post(m.Cancel(0, slot.request.id))
        with anyio.move_on_after(self.timeout_s):
            await self._read_until(slot.is_done)
        if not slot.is_done():
            name = type(slot.request).__name__
            raise HostTimeout(f"the host did not answer {name} for {self.timeout_s} s: is it stopped?")

    def _abandon(self, slot: Slot) -> None:
        orphan = self._exchange.abandon(slot)
        if orphan is not None:
            dispose(self.context, *orphan)
        elif isinstance(slot.request, m.Open) and slot.request.wait and not self.is_broken:
            with contextlib.suppress(HostGone):
                self.outbox.post(m.Cancel(0, slot.request.id))

    async def _read_until(self, is_ready: Callable[[], bool]) -> None:
        while not is_ready():
            if self._is_reading:
                await self._news.wait()
                continue
            self._is_reading = True
            try:
                while not is_ready():
                    await anyio.wait_readable(self._sock)
                    self._receive()
                    self._announce()
            finally:
                self._is_reading = False
                if self._is_ending:
                    self._receive_to_the_end()
                self._announce()

    def _receive_to_the_end(self) -> None:
        while self._exchange.failure is None:
            if not self._receive():
                self._exchange.fail(HostGone("the connection to the host is broken"))
        self.outbox.shut()
        self._sock.close()

    def _announce(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    def _receive(self) -> bool:
        """Read once; False when there was nothing to be read."""
        data, owned = b"", list[int]()
        try:
            data, owned = descriptors.receive(self._sock, descriptors.DONTWAIT)
        except BlockingIOError:
            return False
        except RemoteProtocolError as error:
            self._exchange.fail(error)
        except OSError:
            pass  # ECONNRESET: the end
        for orphan in self._exchange.receive(data, owned):
            dispose(self.context, *orphan)
        if self._exchange.failure is not None:
            descriptors.close_all(self._exchange.drain())
            self.outbox.shut()
        return True


async def open_channel(path: str, timeout_s: float, connect_s: float) -> AsyncChannel:
    """Connect to a host and greet it. HostGone, AccessDenied: nobody there, or not for us.

    Connecting and greeting take `connect_s` each at most, and `timeout_s` is for what comes after that.
    """
    sock = await _connect(path, connect_s)
    channel = AsyncChannel(sock, connect_s)
    try:
        ADDRESS_SPACE.reserve(greeted(channel.context, await channel.ask(Ask(channel.context.greeting()))))
        channel.timeout_s = timeout_s
    except BaseException:
        channel.outbox.shut()
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
