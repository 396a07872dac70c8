"""The words of a host to a process of its own, over a socket: whole, in order, and without waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgpack

MAX_WAITING = 2**22  # bytes that the process has not read: it has all arenas at once at its start


class Outbox:
    """The messages to one process. `link` does not block; the caller closes it, and this before."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()

    def say(self, *values: object) -> None:
        """Send a message, now or when the process reads. If it never does, the link ends."""
        is_first = not self._waiting
        self._waiting += msgpack.packb(values)
        if is_first:
            self._flush()
            if self._waiting:
                self._loop.add_writer(self._link, self._flush)
        elif len(self._waiting) > MAX_WAITING:
            self._end()

    def close(self) -> None:
        """Send no more."""
        self._waiting.clear()
        self._loop.remove_writer(self._link)

    def _flush(self) -> None:
        try:
            del self._waiting[: self._link.send(self._waiting)]
        except BlockingIOError:
            return
        except OSError:
            self._end()
        if not self._waiting:
            self._loop.remove_writer(self._link)

    def _end(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
