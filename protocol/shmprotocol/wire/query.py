"""Connecting to a host, and simple requests to it: shared by all clients and commands.

Knows no mapping, lease, thread or event loop: an async caller uses `try_connect` and
`pauses`, and sleeps in its own way.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from shmprotocol.abi.header import KIND_ARENA, read_metadata
from shmprotocol.errors import (
    AccessDenied,
    HostGone,
    HostTimeout,
    InvalidArgument,
    OutOfMemory,
    RegionNotFound,
    RemoteProtocolError,
    ShmError,
    refusal,
)
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.names import check_name

Reply = TypeVar("Reply", bound=m.Message)
TIMEOUT_S = 10.0  # a host answers in microseconds; after this time it must be stopped
PAUSE_MIN_S = 0.001  # a running host accepts a full queue within a millisecond
PAUSE_MAX_S = 0.05
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class HostSocket(socket.socket):
    """A socket that closes without a ResourceWarning when it is collected.

    Views keep a connection open past its client on purpose; the garbage collector may find both at once.
    """

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was never created: no descriptor was left
            self.close()


def connect(path: str, timeout_s: float) -> HostSocket:
    """Return a socket connected to a host, which never blocks until its timeout is set.

    HostGone: no process listens there. AccessDenied: the socket is not for this user. HostTimeout: the host's
    queue was full for `timeout_s`. OutOfMemory: no descriptor or memory is left for a socket. A signal whose
    handler raises, such as Ctrl-C, ends it at once.
    """
    pauses_s = pauses(timeout_s)
    while (sock := try_connect(path)) is None:
        pause_s = next(pauses_s, None)
        if pause_s is None:
            raise overloaded(path)
        time.sleep(pause_s)
    return sock


def try_connect(path: str) -> HostSocket | None:
    """Return a connected, non-blocking socket; None while the host's queue is full. Never waits.

    While the queue is full, connect(2) on a Unix socket returns EAGAIN, and no event follows (unix(7)). A
    blocking connect would sleep in the kernel, but CPython treats a connect that a signal interrupts as
    connected: it polls the socket, which is writable. Hence attempts and pauses.
    """
    sock = None
    try:
        sock = HostSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect(path)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, BlockingIOError):
            return None
        if isinstance(error, OSError):
            raise _explain(path, error) from None
        raise
    return sock


def pauses(timeout_s: float, clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
    """Yield the seconds to sleep before each further attempt; ends when the time is up.

    The pauses double, with random jitter, so that clients do not reconnect in step. The last one ends with
    the timeout, and one attempt follows it.
    """
    end, pause_s = clock() + timeout_s, PAUSE_MIN_S
    while (left := end - clock()) > 0:
        yield min(left, jittered(pause_s))
        pause_s = min(pause_s * 2, PAUSE_MAX_S)


def overloaded(path: str) -> HostTimeout:
    """Return the error for a host whose queue of connections stays full."""
    return HostTimeout(
        f"the host at {path} accepts no connections: it is stopped or overloaded", filename=path
    )


def _explain(path: str, error: OSError) -> ShmError:
    """Return the error that says why there is no connection, and what to do; it has the same errno."""
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"may not use the host at {path}: {_owner(path)}, and this is uid {os.geteuid()}; "
            "`shmhost doctor` says more",
            errno=error.errno,
            filename=path,
        )
    if error.errno in _EXHAUSTED:
        why = f"no socket to reach the host at {path}: {error.strerror}"
        return OutOfMemory(why, errno=error.errno, filename=path)
    return HostGone(
        f"no host at {path} ({error.strerror or error}). Start one with `shmhost serve --socket {path}`, "
        "or name the socket of one that runs in $SHMHOST_SOCKET",
        errno=error.errno,
        filename=path,
    )


def _owner(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "a folder above it does not let other users in"
    return (
        f"it belongs to uid {status.st_uid}, gid {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o} "
        "(its group may use it)"
    )


def jittered(pause_s: float) -> float:
    """Return a random part of a pause, from half of it on: clients must not act in step."""
    return pause_s * (0.5 + int.from_bytes(os.urandom(2), "little") / 2**17)  # `random` takes 4 ms to import


class Query:
    """A greeted connection for simple requests, one at a time. A context manager.

    Entering raises the errors of `connect`; connecting and each request take at most `timeout_s`, by default
    10 s, and raise HostTimeout after that. A refusal is raised.
    """

    def __init__(
        self, path: str, timeout_s: float | None = None, client: str = "shmhost command line"
    ) -> None:
        self._path = path
        self._timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        self._client = client
        self._windows: tuple[tuple[int, int], ...] = ()
        self.version: int = m.VERSION_MIN  # of the wire, known inside of the block
        self._connection = Connection("client")
        self._socket: socket.socket | None = None

    def __enter__(self) -> Query:
        self._socket = connect(self._path, self._timeout_s)
        try:
            welcome = self.ask(m.Hello(1, m.VERSION_MIN, m.VERSION, self._client), m.Welcome)
        except BaseException:
            self.__exit__()
            raise
        self._windows, self.version = welcome.windows, welcome.version
        return self

    def detach(self) -> socket.socket:
        """Return the socket, which is the caller's from then on; the host has sent nothing but replies."""
        assert self._socket is not None, "call detach inside the `with` block"
        sock, self._socket = self._socket, None
        return sock

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        descriptors.close_all(self._connection.drain())

    def tell(self, request: m.Message) -> None:
        """Send a request that has no reply; the next reply comes when the host has done it. OSError."""
        assert self._socket is not None, "call tell inside the `with` block"
        self._socket.sendall(pack(request))

    def ask(self, request: m.Message, kind: type[Reply]) -> Reply:
        """Send a request and return its reply, of the expected type; its descriptors are closed.

        HostTimeout: no reply in time. HostGone, RemoteProtocolError: there will be none. A refusal is raised.
        """
        reply, owned = self._ask(request, kind)
        descriptors.close_all(owned)
        return reply

    def _ask(self, request: m.Message, kind: type[Reply]) -> tuple[Reply, list[int]]:
        """Do what `ask` does, and return the descriptors, too: the caller owns them."""
        assert self._socket is not None, "call ask inside the `with` block"
        try:
            reply, owned = self._exchange(self._socket, request)
        except TimeoutError:
            raise HostTimeout(
                f"the host at {self._path} did not answer within {self._timeout_s:g} s: is it stopped?"
            ) from None
        except OSError as error:
            if isinstance(error, ShmError):
                raise
            why = f"lost the connection to the host at {self._path}: {error.strerror or error}"
            raise HostGone(why, errno=error.errno, filename=self._path) from None
        if isinstance(reply, m.Refused):
            raise refusal(reply.code, reply.text)
        if isinstance(reply, m.Goodbye):
            raise RemoteProtocolError(f"the host dropped this client: {reply.text}")
        if not isinstance(reply, kind):
            descriptors.close_all(owned)
            raise RemoteProtocolError(f"{type(reply).__name__} arrived instead of {kind.__name__}")
        return reply, owned

    def _exchange(self, sock: socket.socket, request: m.Message) -> tuple[m.Message, list[int]]:
        end = time.monotonic() + self._timeout_s
        sock.settimeout(self._timeout_s)
        sock.sendall(pack(request))
        while True:
            for reply, owned in self._connection.messages():
                return reply, owned
            left = end - time.monotonic()
            if left <= 0:  # bytes arrive, but no whole reply
                raise TimeoutError
            sock.settimeout(left)
            data, received = descriptors.receive(sock)
            if not data:
                why = f"the host at {self._path} closed the connection"
                # The kernel has no error for a silent peer.
                raise HostGone(why, errno=errno.EPROTO, filename=self._path)
            self._connection.receive(data, received)

    def regions(self, prefix: str) -> Iterator[m.RegionInfo]:
        """Yield the current regions with a prefix, sorted by name."""
        after, more = "", True
        while more:
            reply = self.ask(m.List(2, prefix, after), m.Listed)
            yield from reply.regions
            more = reply.more and bool(reply.regions)
            after = reply.regions[-1].name if reply.regions else ""

    def inspect(self, prefix: str) -> Iterator[m.Inspection]:
        """Yield the regions with a prefix, in any state, with their holders, by number."""
        after, more = 0, True
        while more:
            reply = self.ask(m.Inspect(2, prefix, after), m.Inspected)
            yield from reply.regions
            more = reply.more and bool(reply.regions)
            after = reply.regions[-1].info.region if reply.regions else 0

    def survey(self, region: int) -> tuple[descriptors.Owned, list[m.Hold]]:
        """Return the descriptor of an arena, and who holds what of it. Does not open it."""
        arena = descriptors.Owned()
        holds: list[m.Hold] = []
        start = (0, 0)
        while not arena or any(start):
            arena.close()
            reply, owned = self._ask(m.Survey(2, region, *start), m.Surveyed)
            arena.extend(owned)
            holds += reply.holds
            start = (reply.ledger, reply.hold) if (reply.ledger, reply.hold) > start else (0, 0)
        return arena, holds

    def arena_of(self, name: str) -> m.RegionInfo | None:
        """Return the arena that a name is, or lies below; None: the host has none there."""
        for end in [*(at for at, letter in enumerate(name) if letter == "/"), len(name)]:
            try:
                info = self.stat(name[:end])
            except (RegionNotFound, InvalidArgument):
                continue
            if info.kind == KIND_ARENA:
                return info
        return None

    def arenas(self, prefix: str) -> list[m.RegionInfo]:
        """Return the arenas that have names which start with a prefix, or are in use as older ones."""
        above = self.arena_of(prefix) if prefix else None
        infos = [inspection.info for inspection in self.inspect(above.name if above else prefix)]
        return [info for info in infos if info.kind == KIND_ARENA and info.generation]

    def measure(self) -> m.Measured:
        """Return the counters of the host."""
        return self.ask(m.Measure(2), m.Measured)

    def windows(self) -> tuple[tuple[int, int], ...]:
        """Return the windows that the host announced."""
        return self._windows

    def metadata(self, name: str) -> bytes:
        """Return the packed metadata of a current region, b"" if it has none; never of an arena.

        The region is leased until this connection ends. BadRegion: its header page is not one.
        """
        _, owned = self._ask(m.Open(2, (check_name(name),), (), False), m.Opened)
        try:
            return read_metadata(owned[0])
        finally:
            descriptors.close_all(owned)

    def stat(self, name: str) -> m.RegionInfo:
        """Return one current region."""
        return self.ask(m.Stat(2, check_name(name)), m.Described).info
