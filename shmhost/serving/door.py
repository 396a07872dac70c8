"""The listening socket: accepts connections one by one, and pauses while there is no room for more."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from shmhost.machine.socket_file import accepted
from shmhost.serving.closing import Closer
from shmhost.serving.turns import Turn

LOG = logging.getLogger("shmhost")

RETRY_S = 0.2  # while this process has no descriptor left
TELL_S = 10.0  # between lines of the log about that


class Door:
    """Gives accepted sockets to `admit`, as long as it is open. The listener stays the caller's."""

    def __init__(
        self,
        listener: socket.socket,
        closer: Closer,
        admit: Callable[[socket.socket], None],
        latest: Callable[[], Turn | None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._closer = closer
        self._admit = admit
        self._is_open = True
        self._latest = latest  # the turn of the user who came last
        self._is_pending = False
        self._told_s = -TELL_S  # when it was logged that no connection can be accepted
        self._loop.add_reader(listener, self._look)

    def close(self) -> None:
        """Accept no more."""
        self._is_open = False
        self._loop.remove_reader(self._listener)

    def _look(self) -> None:
        """Accept one in the turn of the user who came last: one that comes again and again has no other."""
        if self._is_pending:
            return
        turn = self._latest()
        if turn is None:
            self._accept()
        else:
            self._is_pending = True
            turn.first(self._accept)

    def _accept(self) -> None:
        self._is_pending = False
        if not self._is_open:
            return
        if self._closer.is_full:
            self._pause("too many closed connections hold descriptors whose close blocks")
            return
        try:
            sock = accepted(self._listener)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                self._pause(f"{error.strerror}; see ulimit -n")
            return  # or this one connection failed, accept(2)
        self._admit(sock)

    def _pause(self, why: str) -> None:
        if self._loop.time() >= self._told_s + TELL_S:
            self._told_s = self._loop.time()
            LOG.warning("cannot accept connections: %s", why)
        self._loop.remove_reader(self._listener)
        self._loop.call_later(RETRY_S, self._resume)

    def _resume(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._listener, self._look)
