"""One connection of the sync client: it waits for the socket, for any number of threads at once.

Of the threads that wait for a reply one reads, for all; the others sleep until their slot is filled, or
until the reader leaves and one of them takes over. No lock is held while reading.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

from shmclient._connection.exchange import Exchange, Slot
from shmclient._connection.outbox import Outbox
from shmclient._connection.socket import detach_after_fork, has_ended
from shmclient._drivers.operations import Ask, Context, Outcome, dispose, greeted, take
from shmclient._process.address_space import ADDRESS_SPACE
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError, ShmError, again
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_part
from shmprotocol.wire.query import connect

POLL_MAX_S = 2_000_000.0  # poll(2) takes milliseconds in 31 bits


class Channel:
    """A connected, greeted socket. Closed by `close`, or with the last lease after that.

    Connecting and greeting take `connect_s` each at most, and `timeout_s` is for what comes after that.
    """

    def __init__(self, path: str, timeout_s: float, connect_s: float) -> None:
        self._sock = connect(path, connect_s)
        self._sock.settimeout(None)
        self._set_timeout(connect_s)
        self._exchange = Exchange()
        self.outbox = Outbox(self._sock, self._close_socket)
        self.context = Context(self.outbox)
        self._lock = threading.RLock()
        self._turn = threading.Condition(self._lock)
        self._is_reading = False
        self._is_ending = False  # its end is there to be read: whoever reads does not leave before that
        self._sleepers = 0  # threads that wait for the one that reads
        detach_after_fork(self, Channel.detach)
        try:
            ADDRESS_SPACE.reserve(greeted(self.context, self.ask(Ask(self.context.greeting()))))
            self._set_timeout(timeout_s)
        except BaseException:
            self.outbox.shut()
            raise

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
        self._read_until(lambda: False, time.monotonic())
        return False

    def ask(self, step: Ask) -> Outcome:
        """Send a request and wait for its reply; the refusal is raised. Thread-safe.

        HostGone, RemoteProtocolError: there will be no reply. HostTimeout: there was none in time.
        """
        with self._lock:
            slot = self._exchange.open(step.request)
        try:
            self._send(step.request)
            self._await(slot, step.wait_s)
        except BaseException:
            self._abandon(slot)
            raise
        return take(slot, step.wait_s)

    def watch(self, prefix: str) -> tuple[int, Callable[[], m.Event]]:
        """Start a watch; return its id, and a function that waits for the next event."""
        request = m.Watch(self.outbox.next_id(), check_part("a prefix", prefix))
        with self._lock:
            events = self._exchange.watch(request.id)
        try:
            self.ask(Ask(request))
        except BaseException:
            self._exchange.unwatch(request.id)
            raise

        def next_event() -> m.Event:
            self._read_until(lambda: bool(events) or self._exchange.failure is not None, math.inf)
            if events:
                return events.popleft()
            assert self._exchange.failure is not None
            raise again(self._exchange.failure)

        return request.id, next_event

    def unwatch(self, request: int) -> None:
        """End a watch. Never waits."""
        self._exchange.unwatch(request)
        if not self.is_broken:
            with contextlib.suppress(HostGone):
                self.outbox.post(m.Cancel(0, request))

    def fileno(self) -> int:
        """Return the socket's descriptor, which stays the channel's."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection; what is mapped keeps it open until its last view goes."""
        self.outbox.close()

    def detach(self) -> None:
        """In the child of a fork: let go of the parent's connection."""
        self._exchange.fail(HostGone("this connection belongs to the parent process"))
        self.outbox.detach()

    def _set_timeout(self, timeout_s: float) -> None:
        # A blocking read with the kernel's own timeout: no poll before each (socket(7)).
        limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._timeout_s = timeout_s

    def _close_socket(self) -> None:
        if not self.outbox.is_detached:
            # Ends a read in another thread, which would keep the connection open.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _send(self, request: m.Message) -> None:
        is_sent = self.outbox.post(request)
        while not is_sent:
            if not _is_ready(self._sock, select.POLLOUT, self._timeout_s):
                raise HostTimeout(f"the host took no request for {self._timeout_s} s: is it stopped?")
            is_sent = self.outbox.flush()

    def _await(self, slot: Slot, wait_s: float | None) -> None:
        if wait_s is not None:
            if self._read_until(slot.is_done, time.monotonic() + wait_s):
                return
            # The one reply still comes: the refusal, or what arrived in time.
            self.outbox.post(m.Cancel(0, slot.request.id))
        if not self._read_until(slot.is_done, None):
            name = type(slot.request).__name__
            raise HostTimeout(f"the host did not answer {name} for {self._timeout_s} s: is it stopped?")

    def _abandon(self, slot: Slot) -> None:
        with self._lock:
            orphan = self._exchange.abandon(slot)
        if orphan is not None:
            dispose(self.context, *orphan)
        elif isinstance(slot.request, m.Open) and slot.request.wait and not self.is_broken:
            with contextlib.suppress(HostGone):
                self.outbox.post(m.Cancel(0, slot.request.id))

    def _read_until(self, is_ready: Callable[[], bool], deadline: float | None) -> bool:
        """Read, or wait for who reads, until `is_ready`. False after the deadline (monotonic seconds).

        Without a deadline each read has the channel's timeout.
        """
        with self._lock:
            while not is_ready():
                if not self._is_reading:
                    self._is_reading = True
                    break
                if not self._sleep(deadline):
                    return is_ready()
            else:
                return True
        try:
            while not is_ready() or self._is_ending:
                if self._exchange.failure is not None:
                    break
                if not self._receive(deadline):
                    return is_ready()
            return True
        finally:
            with self._lock:
                self._is_reading = False
                if self._sleepers:
                    self._turn.notify_all()

    def _sleep(self, deadline: float | None) -> bool:
        self._sleepers += 1
        try:
            left = self._remaining(deadline)
            return self._turn.wait(left if left is None else min(left, threading.TIMEOUT_MAX))
        finally:
            self._sleepers -= 1

    def _remaining(self, deadline: float | None) -> float | None:
        if deadline is None:
            return self._timeout_s
        return None if deadline == math.inf else max(deadline - time.monotonic(), 0)

    def _receive(self, deadline: float | None) -> bool:
        if deadline is not None:
            left = self._remaining(deadline)
            if not _is_ready(self._sock, select.POLLIN, left):
                return left is None or left > POLL_MAX_S
        data, owned = b"", list[int]()
        failure: ShmError | None = None
        try:
            data, owned = descriptors.receive(self._sock)
        except BlockingIOError:
            return False
        except RemoteProtocolError as error:
            failure = error
        except OSError:
            pass  # ECONNRESET, or closed by another thread: the end
        with self._lock:
            if failure is not None:
                self._exchange.fail(failure)
            orphans = self._exchange.receive(data, owned)
            if self._sleepers:
                self._turn.notify_all()
        for orphan in orphans:
            dispose(self.context, *orphan)
        if self._exchange.failure is not None:
            descriptors.close_all(self._exchange.drain())
            self.outbox.shut()
        return True


def _is_ready(sock: socket.socket, event: int, timeout_s: float | None) -> bool:
    """Wait for an event of the socket; False after the time, or after POLL_MAX_S."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return True  # closed by another thread: the read will tell
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(None if timeout_s is None else math.ceil(min(timeout_s, POLL_MAX_S) * 1000)))
