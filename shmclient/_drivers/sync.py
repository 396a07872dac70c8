"""One connection of the sync client: it waits for the socket, for any number of threads at once.

Of the threads that wait for a reply one reads, for all; the others sleep until their reply is there, or
until the reader leaves and one of them takes over. No lock is held while reading.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from shmclient._arenas.resting import PAUSE_S, rest
from shmclient._connection.exchange import Pending
from shmclient._connection.line import Line
from shmclient._connection.retry import Retry, Wait
from shmclient._connection.sleeper import Sleeper
from shmclient._drivers.answers import dispose, take
from shmclient._drivers.awaited import Awaited, never
from shmclient._drivers.channel import GRACE_S, BaseChannel, late, unanswered, unsent
from shmclient._drivers.greeting import greeted
from shmclient._drivers.steps import Ask, Look, Next, Outcome, Sleep, Stay
from shmclient._process.lock import new_lock
from shmclient._regions.region import RegionHandle
from shmprotocol.errors import (
    HostGone,
    RemoteProtocolError,
)
from shmprotocol.native.builtins import HeldValue
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.query import connect

Receive = Callable[[descriptors.Reading], tuple[bytes, descriptors.Owned]]
Names = str | tuple[str, ...]
R = TypeVar("R", bound=RegionHandle)
T = TypeVar("T")
LOOK_AGAIN_S = 0.05  # for who would send and cannot


class PlainChannel(BaseChannel):
    """A connected, greeted socket. Closed by `close`, or with the last lease after that.

    Connecting and greeting take `connect_s` each at most, and `timeout_s` is for what comes after that.
    """

    def __init__(self, path: str, timeout_s: float, connect_s: float) -> None:
        sock = connect(path, connect_s)
        self._line = Line(sock, connect_s)
        self._timeout_s = connect_s
        self._sleeper = Sleeper()
        self._start_turns()
        super().__init__(sock, self._close_socket, self._wake, self._lock)
        self._lane = self.outbox.make_lane(self._exchange.pendings, self._line.users, self._line.leave)
        try:
            greeted(self.context, self.ask(Ask(self.context.greeting())), path)
            if timeout_s != connect_s:
                self._line.set_timeout(timeout_s)
                self._timeout_s = timeout_s
            self._lane.host_id, self._lane.home = self.outbox.host_id, self.outbox.home
            if self._line.waits_in_kernel and self._line.sends_whole:
                self._renew_lane()
        except BaseException:
            self.outbox.shut()
            self.outbox.lazy_board.forget()
            raise

    def is_alive(self) -> bool:
        if self._exchange.failure is not None or self.outbox.is_closing:
            return False
        if not self.outbox.is_broken and not self._line.has_ended():
            return True
        self._is_ending = True
        self._read_until(lambda: False, time.monotonic(), is_long=True)
        return False

    def ask(self, step: Ask) -> Outcome:
        """Send a request and wait for its reply; the refusal is raised. Thread-safe.

        HostGone, RemoteProtocolError: there will be no reply. HostTimeout: there was none in time.
        """
        if self._exchange.must_settle(step.request):
            self._read_until(self._exchange.is_settled, time.monotonic() + self._timeout_s)
        with self._lock:
            pending = self._exchange.open(step.request)
        try:
            number = self.outbox.post(step.request, pending, step.descriptors)
            if number:
                self._await_sent(pending, number)
            self._await(pending, step.wait)
            return take(pending, step.wait)
        except BaseException:
            self._abandon(pending)
            raise

    def next_event(self, step: Next) -> m.Event | None:
        """Wait for the next event of a watch; None when the time is over. Closed: it was ended."""
        subscription = step.subscription
        if not self._read_until(subscription.is_done, time.monotonic() + step.wait_s, is_long=True):
            return None
        return subscription.take()

    def look(self, step: Look) -> bool | None:
        """Sleep until a line of the board may have changed; None when the time is over, False: it cannot."""
        if not self._line.waits_in_kernel:  # a greenlet must not stop all others
            return False
        subscription = step.subscription
        answer = self._sleeper.sleep(step.line, step.owner, step.changes, step.wait_s, subscription.is_done)
        if subscription.is_done():
            subscription.take()
        return answer

    def stay(self, step: Stay) -> bool | None:
        """Sleep until a value of an arena may have changed; None when the time is over."""
        subscription = step.subscription
        if self._line.waits_in_kernel:
            sleep = partial(rest, step.position, step.line_changes, step.position.reader.board.owner)
            is_over = subscription.is_done
            answer = self._sleeper.rest(sleep, step.wait_s, lambda: is_over() or not self.is_alive())
        else:  # a greenlet must not stop all others
            answer = True if step.wait_s > 0 else None
            time.sleep(min(max(step.wait_s, 0), PAUSE_S))
        if subscription.is_done():
            subscription.take()
        if not self.is_alive():
            raise HostGone("the connection to the host is over")
        return answer

    def pause(self, step: Sleep) -> None:
        """Sleep for a time, or until a value of an arena changes, whose host is gone."""
        end, position = time.monotonic() + step.pause_s, step.position
        assert position is not None
        sleep = partial(rest, position, position.reader.line_changes(), 0)
        while not position.has_moved() and (left_s := end - time.monotonic()) > 0:
            if self._line.waits_in_kernel:
                self._sleeper.rest(sleep, left_s, never)
            else:  # a greenlet must not stop all others
                time.sleep(PAUSE_S)

    def await_value(self, awaited: Awaited, retry: Retry, is_over: Callable[[], bool]) -> HeldValue | None:
        """Return a value of an arena once it is there; None: the plain road is to go on."""
        _, reader, name, after = awaited
        value = reader._newer(name, after)
        if value is not False:
            return value
        wait_s = retry.remaining()
        if not wait_s or not reader.is_attended or not self._line.waits_in_kernel:
            return None
        return self._sleeper.await_value(
            reader, name, after, wait_s, lambda: is_over() or not self.is_alive()
        )

    def fileno(self) -> int:
        """Return the socket's descriptor, which stays the channel's."""
        return self._line.fileno()

    def detach(self) -> None:
        self._start_turns()  # a thread that does not exist in the child may have had the lock, or the turn
        self._guard = self._lock
        super().detach()

    def _start_turns(self) -> None:
        self._lock = new_lock()
        self._turn = threading.Condition(self._lock)
        self._sleepers = 0  # threads that wait for the one that reads

    @property
    def _reader(self) -> int:
        """The thread that reads, by its identifier; 0: none."""
        return self._lane.reader

    def _renew_lane(self) -> None:
        pending = Pending(None)
        pending.is_posted = True
        self._lane.renew(pending, descriptors.Reading())
        self._lane.is_ready = self._exchange.is_between_frames()

    def _close_socket(self) -> None:
        if self.outbox.is_detached:
            self._line.detach()
        else:
            self._line.close()

    def _await_sent(self, pending: Pending, number: int) -> None:
        """Wait until a request has left; the socket was full.

        The host takes no more requests while its replies are not read. So somebody reads meanwhile: another
        thread, or else this one, which looks again for the other one now and then.
        """

        def is_over() -> bool:
            return pending.is_done() or self.outbox.is_sent(number)

        end = time.monotonic() + self._timeout_s
        while not is_over():
            now = time.monotonic()
            if now >= end:
                raise unsent(self._timeout_s)
            if self._is_read_elsewhere():
                self._line.wait_writable(min(end - now, LOOK_AGAIN_S))
                self.outbox.flush()
            else:
                self._read_until(is_over, min(end, now + LOOK_AGAIN_S), is_long=True)

    def _await(self, pending: Pending, wait: Wait | None, began_s: float | None = None) -> None:
        now = time.monotonic() if began_s is None else began_s
        if wait is None:
            if not self._read_until(pending.is_done, now + self._timeout_s):
                raise unanswered(pending.request, self._timeout_s)
        elif not self._read_until(pending.is_done, now + wait.left_s, is_long=True):
            # The one reply still comes: the refusal, or what arrived in time.
            self.context.cancel(pending.request.id)
            if not self._read_until(pending.is_done, time.monotonic() + GRACE_S, is_long=True):
                raise late(wait.asked_s)

    def _read_until(self, is_ready: Callable[[], bool], deadline: float, *, is_long: bool = False) -> bool:
        """Read, or wait for who reads, until `is_ready`. False after the deadline (monotonic seconds).

        A long wait polls, for a time of its own, and can be woken. Any other has the line's timeout for each
        read, so that it may last up to twice that when something else comes meanwhile.
        """
        me = threading.get_ident()
        # A signal's handler, or a destructor, uses the client in the middle of a read of this very thread. It
        # may take the reply that the read waits for, and so has that look again, and take its turn again.
        is_nested = self._reader == me
        try:
            while not is_ready() or self._is_ending:
                if self._reader != me and not self._take_turn(is_ready, deadline):
                    return is_ready()
                if self._exchange.failure is not None:
                    break
                left = deadline - time.monotonic()
                if left <= 0 and not self._is_ending:
                    return is_ready()
                self._receive(max(left, 0) if is_long else None)
            return True
        finally:
            self._leave_turn()
            if is_nested:
                self._line.interrupt()

    def _leave_turn(self) -> None:
        with self._lock:
            if not self._is_read_elsewhere():
                self._lane.reader = 0
                self._wake_sleepers()

    def _is_read_elsewhere(self) -> bool:
        """Whether another thread reads. This one may be noted in vain, if Ctrl-C came in `finally`."""
        return self._reader not in (0, threading.get_ident())

    def _take_turn(self, is_ready: Callable[[], bool], deadline: float) -> bool:
        """Wait until nobody reads, and become the one who does. False: no need any more, or no time."""
        with self._lock:
            self._sleepers += 1  # first: the fast road gives the turn up with no lock, then looks here
            try:
                while not is_ready():
                    if self._lane.take_turn(threading.get_ident()):
                        return True
                    left = deadline - time.monotonic()
                    if left <= 0:
                        return False
                    self._turn.wait(min(left, threading.TIMEOUT_MAX))
            finally:
                self._sleepers -= 1
        return False

    def _wake(self) -> None:
        with self._lock:
            self._wake_sleepers()
        self._line.wake()
        self._sleeper.wake()

    def _wake_sleepers(self) -> None:
        if self._sleepers:  # notify_all costs half a microsecond even without any
            self._turn.notify_all()

    def _receive(self, wait_s: float | None) -> None:
        """Read once and hand out what came; nothing may come in time.

        When Ctrl-C comes right after the read, its bytes are lost: nobody could make sense of those that
        follow. The connection ends then, and the client makes a new one.
        """
        self._take_in(
            descriptors.Reading(),
            lambda reading: self._line.receive(wait_s, reading, or_writable=self.outbox.has_unsent),
        )

    def _take_in(self, reading: descriptors.Reading, receive: Receive) -> None:
        try:
            self._hand_out(reading, receive)
        except BaseException:
            if reading:
                self._lose_reply()
            raise
        self.outbox.flush()
        self._end_if_failed()
        self._lane.is_ready = self._exchange.is_between_frames()

    def _lose_reply(self) -> None:
        self._exchange.fail(HostGone("Ctrl-C came in the middle of a reply: this connection is over"))
        descriptors.close_all(self._exchange.drain())
        self.retire()

    def _hand_out(self, reading: descriptors.Reading, receive: Receive) -> None:
        data, owned = b"", descriptors.NONE
        try:
            data, owned = receive(reading)
        except BlockingIOError:
            return
        except RemoteProtocolError as error:
            with self._lock:
                self._exchange.fail(error)
        except OSError:
            pass  # ECONNRESET, or closed by another thread: the end
        with self._lock:
            orphans = self._exchange.receive(data, owned)
            self._wake_sleepers()
        for orphan in orphans:
            dispose(self.context, *orphan)
