"""Frames on their way to one client: sent at once, or queued while the client is slow. Never waits.

Knows no session. It owns copies of the descriptors that are queued; the socket is its link's.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import perf_counter_ns

from shmhost.core.records import Note
from shmhost.core.state_records import Frame
from shmhost.serving.backlog import Backlog
from shmhost.serving.deadline import TICK_S, Deadline
from shmhost.serving.turns import Turn
from shmhost.serving.unread import Share, Unread
from shmprotocol.kernel.constants import MIB
from shmprotocol.wire import descriptors
from shmprotocol.wire.connection import pack
from shmprotocol.wire.messages import Welcome

LOG = logging.getLogger("shmhost")

MAX_OUTBOX = 4 * MIB  # bytes: a few of the largest replies
DISCARDED = 32  # frames at a time, when a client is gone
FRAME_OVERHEAD = 200  # bytes of a queued frame beside its own: a tuple, a list, and the object of its bytes
STALL_TICKS = 5  # a client that reads nothing for so long is dropped: its descriptors block others
# Between looks at unread descriptors: the socket has no event for the moment when they are read.
RETRY_S, MAX_RETRY_S = 0.001, 0.05
LATER = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))  # none of these is this client's fault
GONE = frozenset((errno.EPIPE, errno.ECONNRESET))


class Outbox:
    """The sending side of one socket.

    `on_emptied` is called when the whole queue is sent. `on_end` is called, perhaps more than once, when
    the connection must end, with the reason, or with "" if the peer is gone; by the loop, never by `send`.

    A client that does not read its descriptors is held: the host sends it no descriptors, and nothing that
    is queued behind them, until it has read all or is dropped.
    """

    __slots__ = (
        "_backlog",
        "_delay_s",
        "_is_closed",
        "_is_held",
        "_loop",
        "_on_emptied",
        "_on_end",
        "_retry",
        "_share",
        "_sock",
        "_stall",
        "_turn",
        "_unread",
        "queue",
    )

    def __init__(
        self,
        sock: socket.socket,
        share: Share,
        turn: Turn,
        on_emptied: Callable[[], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._share = share
        self._turn = turn
        self._unread = Unread(sock, share, self._hold)
        self._on_emptied = on_emptied
        self._on_end = on_end
        self.queue: deque[tuple[bytes, list[int]]] = deque()  # empty: all that was sent has left
        self._backlog = share.backlogs.begin(self._end)
        self._is_closed = self._is_held = False
        self._retry: asyncio.TimerHandle | None = None
        self._delay_s = RETRY_S
        self._stall = Deadline(self._loop, STALL_TICKS, self._stalled)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued."""
        return not self.queue

    def send(self, frame: bytes, fds: Sequence[int], note: Note | None = None) -> None:
        """Send a frame, or queue it if the client is slow. The descriptors stay the caller's.

        The note is made if the frame leaves at once. OSError if it must be queued and no descriptor is left
        for the copies; nothing was sent then.
        """
        sent = 0 if self.queue else self._attempt(frame, fds, note)
        if sent < len(frame):
            self._add(frame[sent:], fds if sent == 0 else ())

    def record(self, give: Callable[[int], int]) -> tuple[tuple[Frame, ...], tuple[int, int]]:
        """Return what is queued, and what is unread, for `resume`; descriptors as `give` tells them."""
        return tuple((data, tuple(map(give, fds))) for data, fds in self.queue), self._unread.record()

    def resume(self, queue: Iterable[tuple[bytes, list[int]]], unread: tuple[int, int]) -> None:
        """Go on with the queue of another host, whose descriptors are this outbox's from then on."""
        self._unread.resume(*unread)
        for data, fds in queue:
            self.queue.append((data, fds))
            self._backlog.add_files(len(fds))
            self._backlog.grow(len(data) + FRAME_OVERHEAD)
        if self.queue:
            self._start_stall()
            self._wait_for_room()

    def close(self, close_socket: Callable[[], None]) -> None:
        """Drop the queue, stop watching the socket, and have it closed once its descriptors are read."""
        self._wait_no_more()
        self._is_closed = True
        self._stall.end()
        self._on_emptied, self._on_end = _do_nothing, _do_nothing
        self._backlog.close()
        if self.queue:  # perhaps thousands of frames
            queue, self.queue = self.queue, deque()
            self._turn.end(_discarding(queue, self._backlog))
        self._unread.close(close_socket)

    def _attempt(self, data: bytes, fds: Sequence[int], note: Note | None = None) -> int:
        """Send as much as possible; return the number of bytes. After 0 bytes a retry is pending."""
        if len(fds) > 1:  # worth a look: a Welcome's may be counted still, though it was read long ago
            self._unread.settle()
        if fds and (self._is_held or not self._unread.admits(len(fds))) and not self._may_send(len(fds)):
            self._try_later()
            return 0
        try:
            if not fds:
                return self._unread.send_behind(
                    lambda: descriptors.send(self._sock, data, (), descriptors.DONTWAIT)
                )
            sent = descriptors.send_now(self._sock, data, fds, note)
        except BlockingIOError:
            self._wait_for_room()
            return 0
        except OSError as error:
            return self._fail(error, len(data))
        self._unread.add(len(fds))
        return sent

    def _fail(self, error: OSError, size: int) -> int:
        if error.errno in LATER:
            self._share.flight.press()
            self._try_later()
            return 0
        self._end("" if error.errno in GONE else f"cannot send to it: {error.strerror}")
        return size  # the connection ends: nothing is left to send

    def _may_send(self, count: int) -> bool:
        if self._is_held:
            return False
        if self._unread.make_room(count):
            return True
        self._is_held = self._unread.count > 0  # if not, others of its uid have to read
        return False

    def _hold(self) -> None:
        """Hold the client until it has read all its descriptors, because others wait for that."""
        if not self._is_held:
            self._is_held = True
            self._start_stall()
            self._try_later()

    def _wait_for_room(self) -> None:
        if self._is_held:  # the timer looks after a held client, however much room there is
            self._try_later()
            return
        self._wait_no_more()
        self._loop.add_writer(self._sock, self._writable)

    def _writable(self) -> None:
        """Go on when it is the turn of the client's user."""
        self._loop.remove_writer(self._sock)
        self._turn.later(self._go_on)

    def _try_later(self) -> None:
        if self._retry is None:
            self._loop.remove_writer(self._sock)
            self._retry = self._loop.call_later(self._delay_s, self._try_again)
            self._delay_s = min(2 * self._delay_s, MAX_RETRY_S)

    def _try_again(self) -> None:
        self._retry = None
        self._is_held = self._is_held and not self._unread.settle()
        if self._is_held:
            self._try_later()
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._is_closed:  # while it waited for its turn
            return
        had_queued, ends_ns = bool(self.queue), self._turn.ends_ns()
        while self.queue:
            if perf_counter_ns() > ends_ns:
                self._turn.later(self._go_on)
                return
            data, fds = self.queue[0]
            sent = self._attempt(data, fds)
            if sent == 0:
                return
            self.queue.popleft()
            self._backlog.close_files(fds)
            if sent < len(data):
                self.queue.appendleft((data[sent:], []))
                self._backlog.shrink(sent)
            else:
                self._backlog.shrink(sent + FRAME_OVERHEAD)
            self._stall.start()
        self._wait_no_more()
        self._stall.stop()
        if had_queued:
            self._on_emptied()

    def _wait_no_more(self) -> None:
        self._loop.remove_writer(self._sock)
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._delay_s = RETRY_S

    def _add(self, rest: bytes, fds: Sequence[int]) -> None:
        if self._backlog.is_ended:  # the connection is about to be closed
            return
        self._backlog.take_files(len(fds))
        try:
            copies = _copies(fds)
        except OSError:
            self._backlog.give_files(len(fds))
            raise
        self._start_stall()
        self.queue.append((rest, copies))
        self._backlog.grow(len(rest) + FRAME_OVERHEAD)
        if self._backlog.size > MAX_OUTBOX:
            self._backlog.end("it sends requests, but does not read the replies")

    def _start_stall(self) -> None:
        if not self._stall.is_running:
            self._stall.start()

    def _stalled(self) -> None:
        if self._retry is not None and self._unread.settle():
            LOG.warning(
                "a client waits: its uid has %d unread descriptors, or the host's user",
                self._share.counter.used,
            )
            self._stall.start()
            return
        what = f"it left {self._unread.count} descriptors unread" if self._unread.count else "it read nothing"
        self._on_end(f"{what} for {STALL_TICKS * TICK_S:.0f} s")

    def _end(self, why: str) -> None:
        self._loop.call_soon(self._on_end, why)


def _do_nothing(_why: str = "") -> None:
    pass


def _copies(fds: Sequence[int]) -> list[int]:
    """Return copies: a region may be freed before its descriptor is sent. OSError: none are left open."""
    copies: list[int] = []
    try:
        copies.extend(os.dup(fd) for fd in fds)  # keeps those from before an error
    except OSError:
        descriptors.close_all(copies)
        raise
    return copies


@functools.lru_cache(maxsize=4)
def packed_welcome(welcome: Welcome) -> bytes:
    """Return the frame of a Welcome: clients of one user get the same one, as the first answer of each."""
    return pack(welcome)


def _discarding(queue: deque[tuple[bytes, list[int]]], backlog: Backlog) -> Iterator[None]:
    """Drop all frames and close their descriptors, some in each step."""
    while queue:
        for _ in range(min(DISCARDED, len(queue))):
            data, fds = queue.popleft()
            backlog.close_files(fds)
            backlog.shrink(len(data) + FRAME_OVERHEAD)
        yield
