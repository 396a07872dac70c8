"""One question to a running host: what the command line needs, without the client library."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from shmprotocol import descriptors
from shmprotocol import messages as m
from shmprotocol.connection import Connection, pack
from shmprotocol.errors import HostGone, RemoteProtocolError, refusal

TIMEOUT_S = 10.0  # a host answers in microseconds; one that takes so long is stopped


class Query:
    """A greeted connection for simple requests, one at a time. A context manager.

    HostGone when nobody answers at the socket; a refusal is raised.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._windows: tuple[tuple[int, int], ...] = ()
        self._connection = Connection("client")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT_S)

    def __enter__(self) -> Query:
        try:
            self._socket.connect(self._path)
            welcome = self.ask(m.Hello(1, m.VERSION, m.VERSION, "shmhost command line"))
            assert isinstance(welcome, m.Welcome)
            self._windows = welcome.windows
        except OSError as error:
            self._socket.close()
            if isinstance(error, (HostGone, RemoteProtocolError)):
                raise
            raise HostGone(
                f"no host at {self._path} ({error.strerror or error}). Start one with "
                f"`shmhost serve --socket {self._path}`, or name another in $SHMHOST_SOCKET"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: m.Message) -> m.Message:
        """Send a request and return its reply."""
        self._socket.sendall(pack(request))
        while True:
            for reply, owned in self._connection.messages():
                descriptors.close_all(owned)
                if isinstance(reply, m.Refused):
                    raise refusal(reply.code, reply.text)
                if isinstance(reply, m.Goodbye):
                    raise RemoteProtocolError(f"the host dropped this client: {reply.text}")
                return reply
            data, owned = descriptors.receive(self._socket)
            if not data:
                raise HostGone(f"the host at {self._path} closed the connection")
            self._connection.receive(data, owned)

    def regions(self, prefix: str) -> Iterator[m.RegionInfo]:
        """Yield the current regions with a prefix, sorted by name."""
        after, more = "", True
        while more:
            reply = self.ask(m.List(2, prefix, after))
            assert isinstance(reply, m.Listed)
            yield from reply.regions
            more = reply.more and bool(reply.regions)
            after = reply.regions[-1].name if reply.regions else ""

    def inspect(self, prefix: str) -> Iterator[m.Inspection]:
        """Yield the regions with a prefix, in any state, with who holds them, by number."""
        after, more = 0, True
        while more:
            reply = self.ask(m.Inspect(2, prefix, after))
            assert isinstance(reply, m.Inspected)
            yield from reply.regions
            more = reply.more and bool(reply.regions)
            after = reply.regions[-1].info.region if reply.regions else 0

    def measure(self) -> m.Measured:
        """Return the counters of the host."""
        reply = self.ask(m.Measure(2))
        assert isinstance(reply, m.Measured)
        return reply

    def windows(self) -> tuple[tuple[int, int], ...]:
        """Return the windows that the host announced."""
        return self._windows

    def stat(self, name: str) -> m.RegionInfo:
        """Return one current region."""
        reply = self.ask(m.Stat(2, m.check_name(name)))
        assert isinstance(reply, m.Described)
        return reply.info
