"""A client that says what it is told to over a socket of its own, and need not read."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Any

from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack

TIMEOUT_S = 10.0


class Talker:
    """A connection. OSError and EOFError when the host has ended it."""

    def __init__(self, path: str, *, greet: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection = Connection("client")
        self._replies: list[tuple[m.Message, list[int]]] = []
        try:
            self.socket.settimeout(TIMEOUT_S)
            self.socket.connect(path)
            if greet:
                self.ask(m.Hello(1, m.VERSION, m.VERSION, "abuser"))
        except BaseException:
            self.socket.close()
            raise

    def say(self, *messages: m.Message) -> None:
        """Send requests, as one write."""
        self.socket.sendall(b"".join(map(pack, messages)))

    def shout(self, data: bytes) -> None:
        """Send bytes as far as the socket takes them now."""
        with contextlib.suppress(BlockingIOError):
            self.socket.send(data, socket.MSG_DONTWAIT)

    def read(self) -> m.Message:
        """Return the next message; its descriptors are closed."""
        message, fds = self.take()
        descriptors.close_all(fds)
        return message

    def take(self) -> tuple[m.Message, list[int]]:
        """Return the next message and its descriptors."""
        while not self._replies:
            data, fds = descriptors.receive(self.socket)
            if not data:
                raise EOFError
            self._connection.receive(data, fds)
            self._replies += [(message, list(brought)) for message, brought in self._connection.messages()]
        return self._replies.pop(0)

    def ask(self, message: m.Message) -> Any:
        """Send a request and return the next message that is not an Event."""
        self.say(message)
        while isinstance(reply := self.read(), m.Event):
            pass
        return reply

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def __enter__(self) -> Talker:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def many(stack: contextlib.ExitStack, path: str, count: int, *, greet: bool = True) -> list[Talker]:
    """Return up to so many connections, as many as the host accepts."""
    talkers: list[Talker] = []
    with contextlib.suppress(OSError, EOFError):
        talkers.extend(stack.enter_context(Talker(path, greet=greet)) for _ in range(count))
    return talkers


def ask_all(talkers: Iterable[Talker], message: m.Message) -> None:
    """Send one request on all connections, then read a reply on each."""
    asked = list(talkers)
    for talker in asked:
        talker.say(message)
    for talker in asked:
        talker.read()
