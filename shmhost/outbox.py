"""Frames on their way to one client: sent at once, or queued while the client is slow. Never waits.

Knows no message and no session. It owns copies of the descriptors that are queued; the socket is its link's.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence

from shmhost.deadline import TICK_S, Deadline
from shmprotocol import descriptors

OUTBOX_MAX = 4 * 1024 * 1024  # bytes: a few of the largest replies
STALL_TICKS = 5  # a client that takes nothing for so long is dropped: its descriptors block its peers


class Outbox:
    """The sending side of one socket.

    `on_emptied` is called when all that was queued is sent. `on_end` is called, perhaps more than once, when
    the connection must go, with the reason, or with "" when the peer has gone; the loop calls it, not `send`.
    """

    def __init__(
        self, sock: socket.socket, on_emptied: Callable[[], None], on_end: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_emptied = on_emptied
        self._on_end = on_end
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._size = 0  # bytes
        self._stall = Deadline(self._loop, STALL_TICKS, self._stalled)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is queued."""
        return not self._queue

    def send(self, frame: bytes, fds: Sequence[int]) -> None:
        """Send a frame, or queue it where the client is slow. The descriptors stay the caller's."""
        sent = 0
        if not self._queue:
            try:
                sent = descriptors.send(self._sock, frame, fds, descriptors.DONTWAIT)
            except BlockingIOError:
                pass
            except OSError:
                self._end("")
                return
        if sent < len(frame):
            self._add(frame[sent:], fds if sent == 0 else ())

    def close(self) -> None:
        """Forget what is queued and watch the socket no more."""
        self._loop.remove_writer(self._sock)
        self._stall.stop()
        while self._queue:
            descriptors.close_all(self._queue.popleft()[1])

    def _end(self, why: str) -> None:
        self._loop.call_soon(self._on_end, why)

    def _add(self, rest: bytes, fds: Sequence[int]) -> None:
        try:
            # The region may be freed before its descriptor is sent: the outbox has its own copies.
            copies = [os.dup(fd) for fd in fds]
        except OSError:
            self._end("")
            return
        if not self._queue:
            self._loop.add_writer(self._sock, self._writable)
            self._stall.start()
        self._queue.append((rest, copies))
        self._size += len(rest)
        if self._size > OUTBOX_MAX:
            self._end("it does not read, and asks on")

    def _writable(self) -> None:
        while self._queue:
            data, fds = self._queue[0]
            try:
                sent = descriptors.send(self._sock, data, fds, descriptors.DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                self._end("")
                return
            self._size -= sent
            self._queue.popleft()
            descriptors.close_all(fds)
            if sent < len(data):
                self._queue.appendleft((data[sent:], []))
            self._stall.start()
        self._loop.remove_writer(self._sock)
        self._stall.stop()
        self._on_emptied()

    def _stalled(self) -> None:
        self._on_end(f"it read nothing for {STALL_TICKS * TICK_S:.0f} s")
