"""The receiving side of a connection that may hand regions back, until its first other request. Never waits.

A descriptor of a foreign kind can make its last close wait for as long as its sender likes: so the threads of
the closer close them all.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from collections.abc import Callable

from shmprotocol.wire import descriptors


class Intake:
    """The reads of a socket. With `is_full` its client must not send descriptors any more.

    `is_done`: no more can come, and the kernel refuses them.
    """

    def __init__(self, sock: socket.socket, is_full: Callable[[], bool]) -> None:
        self._sock = sock
        self._is_full = is_full
        self._is_open = descriptors.accept(sock)
        self.is_done: bool = False

    def receive(self) -> tuple[bytes, list[int]]:
        """Read once; `b""` is EOF. The caller owns the descriptors. OSError, RemoteProtocolError."""
        if self._is_full():
            self.end()
        if self._is_open:
            return descriptors.receive(self._sock, descriptors.DONTWAIT)
        data = descriptors.receive_data(self._sock, refused=False)
        # Descriptors from before the kernel began to refuse lie in front of this.
        self.is_done = descriptors.are_refused(self._sock) and not _has_unread(self._sock)
        return data, []

    def end(self) -> None:
        """Take no more descriptors: the client has made another request, or must not send any."""
        if self._is_open:
            self._is_open = False
            descriptors.refuse(self._sock)


def _has_unread(sock: socket.socket) -> bool:
    unread: int = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    return unread > 0
