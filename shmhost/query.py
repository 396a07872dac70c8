"""One question to a running host: what the command line needs, without the client library."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import TypeVar

from shmprotocol import descriptors
from shmprotocol import messages as m
from shmprotocol.connection import Connection, pack
from shmprotocol.errors import (
    AccessDenied,
    HostGone,
    HostTimeout,
    RemoteProtocolError,
    ShmError,
    refusal,
)

Reply = TypeVar("Reply", bound=m.Message)
TIMEOUT_S = 10.0  # a host answers in microseconds; one that takes so long is stopped


class Query:
    """A greeted connection for simple requests, one at a time. A context manager.

    HostGone when there is nobody at the socket, HostTimeout when nobody answers, AccessDenied when it is
    not for this user; a refusal is raised.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._windows: tuple[tuple[int, int], ...] = ()
        self._connection = Connection("client")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)

    def __enter__(self) -> Query:
        try:
            self._connect()
            welcome = self.ask(m.Hello(1, m.VERSION, m.VERSION, "shmhost command line"), m.Welcome)
        except BaseException:
            self._socket.close()
            raise
        self._windows = welcome.windows
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: m.Message, wanted: type[Reply]) -> Reply:
        """Send a request and return its reply, which is of the wanted type.

        HostTimeout: none came in time. HostGone, RemoteProtocolError: none will come. A refusal is raised.
        """
        try:
            self._socket.sendall(pack(request))
            reply = self._receive()
        except TimeoutError:
            raise HostTimeout(
                f"the host at {self._path} gave no answer in {TIMEOUT_S:.0f} s: is it stopped?"
            ) from None
        except OSError as error:
            if isinstance(error, ShmError):
                raise
            raise HostGone(f"the host at {self._path} went away: {error.strerror or error}") from None
        if isinstance(reply, m.Refused):
            raise refusal(reply.code, reply.text)
        if isinstance(reply, m.Goodbye):
            raise RemoteProtocolError(f"the host dropped this client: {reply.text}")
        if not isinstance(reply, wanted):
            raise RemoteProtocolError(f"{type(reply).__name__} came where {wanted.__name__} is due")
        return reply

    def _connect(self) -> None:
        try:
            self._socket.connect(self._path)
        except (TimeoutError, BlockingIOError):  # its queue of connections is full
            raise HostTimeout(
                f"the host at {self._path} takes no connection: it is stopped or overloaded"
            ) from None
        except PermissionError as error:
            raise AccessDenied(
                f"may not use the host at {self._path}: {error.strerror}; `shmhost doctor` says more"
            ) from None
        except OSError as error:
            raise HostGone(
                f"no host at {self._path} ({error.strerror or error}). Start one with "
                f"`shmhost serve --socket {self._path}`, or name another in $SHMHOST_SOCKET"
            ) from None

    def _receive(self) -> m.Message:
        while True:
            for reply, owned in self._connection.messages():
                descriptors.close_all(owned)
                return reply
            data, owned = descriptors.receive(self._socket)
            if not data:
                raise HostGone(f"the host at {self._path} closed the connection")
            self._connection.receive(data, owned)

    def regions(self, prefix: str) -> Iterator[m.RegionInfo]:
        """Yield the current regions with a prefix, sorted by name."""
        after, more = "", True
        while more:
            reply = self.ask(m.List(2, prefix, after), m.Listed)
            yield from reply.regions
            more = reply.more and bool(reply.regions)
            after = reply.regions[-1].name if reply.regions else ""

    def inspect(self, prefix: str) -> Iterator[m.Inspection]:
        """Yield the regions with a prefix, in any state, with who holds them, by number."""
        after, more = 0, True
        while more:
            reply = self.ask(m.Inspect(2, prefix, after), m.Inspected)
            yield from reply.regions
            more = reply.more and bool(reply.regions)
            after = reply.regions[-1].info.region if reply.regions else 0

    def measure(self) -> m.Measured:
        """Return the counters of the host."""
        return self.ask(m.Measure(2), m.Measured)

    def windows(self) -> tuple[tuple[int, int], ...]:
        """Return the windows that the host announced."""
        return self._windows

    def stat(self, name: str) -> m.RegionInfo:
        """Return one current region."""
        return self.ask(m.Stat(2, m.check_name(name)), m.Described).info
