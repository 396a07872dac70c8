"""Connections that are refused, each of which is told why, and closed a moment later; and those dropped.

A socket that closes at once would fail its client's Hello, so that the client never reads the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable, Iterator

from shmhost.core.peers import Peer
from shmprotocol.wire import descriptors
from shmprotocol.wire.connection import pack
from shmprotocol.wire.messages import Goodbye

LOG = logging.getLogger("shmhost")

PATIENCE_S = 1.0
MAX_TURNED_AWAY = 16  # descriptors, for which no account has room


class TurnedAway:
    """Owns the sockets of refused connections until `close` gets them. For the loop's thread."""

    def __init__(self, close: Callable[[socket.socket], None]) -> None:
        self._close = close
        self._sockets: deque[socket.socket] = deque()

    def add(self, sock: socket.socket, why: str) -> None:
        """Tell a client why it is refused, and close its socket soon."""
        with contextlib.suppress(OSError):  # it is gone
            descriptors.send(sock, pack(Goodbye(0, why)), (), descriptors.DONTWAIT)
            sock.shutdown(socket.SHUT_WR)
        self._sockets.append(sock)
        if len(self._sockets) > MAX_TURNED_AWAY:
            self._close(self._sockets.popleft())
        else:
            asyncio.get_running_loop().call_later(PATIENCE_S, self._end_one)

    def close(self) -> None:
        """Close all."""
        while self._sockets:
            self._close(self._sockets.popleft())

    def _end_one(self) -> None:
        if self._sockets:
            self._close(self._sockets.popleft())


def noting_drop(peer: Peer, why: str) -> Iterator[None]:
    """Log that a client was dropped, in one step. † It takes 15 us."""
    LOG.warning("dropped uid %d pid %d: %s", peer.uid, peer.pid, why, extra={"uid": peer.uid})
    yield
