"""Closes connected sockets, in threads where a close may block. Knows no session and no region.

Descriptors that a peer sent lie in the socket's queue until it is closed, and closing those can take as
long as the peer likes: a TCP socket with SO_LINGER and unsent bytes keeps its last holder waiting
(socket(7)). Linux 6.16 refuses them on the way in (`descriptors.refuse`); older kernels need this.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Iterator

from shmhost.serving.foreign import Foreign

LOG = logging.getLogger("shmhost")

MAX_THREADS = 8  # an honest client that leaves unread bytes behind needs one for microseconds
MAX_PENDING = 64  # sockets, each with a descriptor of this process: a small part of the usual 1,024


class Closer:
    """Owns the sockets that it is given until they are closed. `close` is called by the loop's thread alone.

    The threads are daemons, and the kernel ignores SO_LINGER in a process that exits: they delay no end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for a few instructions, by the loop as well
        self._waiting: deque[socket.socket] = deque()
        self._threads: set[threading.Thread] = set()
        self.pending: int = 0  # sockets that are not closed yet
        self.foreign: Foreign = Foreign()  # closes single descriptors that came

    @property
    def is_full(self) -> bool:
        """Whether so many closes block that no further connection may be accepted."""
        return self.pending >= MAX_PENDING

    def close(self, sock: socket.socket) -> None:
        """Close a socket that is shut down, so that nothing more can come: now, or in a thread."""
        if not _has_unread(sock):
            sock.close()
            return
        with self._lock:
            self.pending += 1
            self._waiting.append(sock)
            if len(self._threads) < MAX_THREADS:
                self._start()

    def closing(self, sock: socket.socket, *, refused: bool) -> Iterator[None]:
        """Close a socket in one step. † It takes 20 us. Where descriptors are `refused`, it cannot block."""
        if refused:
            sock.close()
        else:
            self.close(sock)
        yield

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="shmhost closer", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as error:  # no thread available: the next close tries again
            self._threads.discard(thread)
            LOG.warning("a socket stays open for now: %s", error)

    def _run(self) -> None:
        while (sock := self._next()) is not None:
            sock.close()
            with self._lock:
                self.pending -= 1

    def _next(self) -> socket.socket | None:
        """Return the next one; None when this thread shall end, which it then must."""
        with self._lock:  # so that no socket is left to a thread that has decided to end
            if self._waiting:
                return self._waiting.popleft()
            self._threads.discard(threading.current_thread())
            return None


def _has_unread(sock: socket.socket) -> bool:
    """Whether bytes wait in a socket. A descriptor rides on a byte: without bytes there is none (unix(7))."""
    unread: int = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    return unread > 0
