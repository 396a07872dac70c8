"""Sends chunks to other hosts: a thread for each connection, by sendfile(2) out of the sealed object. Waits.

The thread of the loop only looks up which object a question is about. A connection that moves nothing ends.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hmac
import logging
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from shmhost.fleet import bulk_wire as wire
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.messages import unpack
from shmhost.fleet.threads import Chunk
from shmprotocol.errors import HostError, ShmError
from shmprotocol.kernel.constants import MIB

LOG = logging.getLogger("shmhost")

MAX_CONNECTIONS = 64  # each has a thread; who finds none free uses zenoh
BEGIN_S, IDLE_S = 5, 30  # for TLS and token; for a request, and for an answer that does not move
LOOK_S = 15.0  # for the loop, which looks an object up
PIECE = MIB // 4  # bytes that TLS encrypts at a time


# In the thread of the loop: takes the name in the certificate of the asker, None without TLS, and the fields
# of its question; returns a chunk, and how long it has to wait. Refusal, RemoteProtocolError.
Find = Callable[[str | None, tuple[Any, ...]], tuple[Chunk, float]]


class BulkServer:
    """Where the chunks of this host come from. `open` and `close` wait: call them in a thread."""

    def __init__(self, plan: FleetConfig, find: Find) -> None:
        self._plan = plan
        self._find = find
        self._token = secrets.token_bytes(wire.TOKEN)
        self._context: ssl.SSLContext | None = None
        self._listeners: list[socket.socket] = []
        self._lock = threading.Lock()  # of the sets, which several threads change
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._strangers: dict[socket.socket, None] = {}  # of these, those without the token yet, oldest first
        self._closed = threading.Event()
        self._loop = asyncio.get_running_loop()

    def open(self) -> None:
        """Listen. HostError: an address cannot be used; it may be called again then."""
        if self._plan.tls is not None:
            self._context = wire.server_context(self._plan.tls)
        for endpoint in wire.endpoints(self._plan)[len(self._listeners) :]:
            host, port = wire.split(endpoint)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                listener = socket.create_server((host, port), family=family, backlog=MAX_CONNECTIONS)
            except OSError as error:
                raise HostError(f"{self._plan.path}: bulk: {endpoint}: {error.strerror}") from None
            self._listeners.append(listener)
            threading.Thread(target=self._accept, args=(listener,), name="shmhost-bulk", daemon=True).start()

    def ports(self, session: str) -> wire.Ports:
        """Return where others reach this host, whose session of zenoh is named."""
        addresses = [listener.getsockname()[:2] for listener in self._listeners]
        return wire.Ports(session, self._token, self._context is not None, tuple(addresses))

    def close(self) -> None:
        """End all connections, and their threads."""
        self._closed.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            _shut(connection)
        for thread in connections.values():
            thread.join(1.0)

    def _accept(self, listener: socket.socket) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._closed.is_set() or listener.fileno() < 0:
                    return
                LOG.warning("fleet %s: bulk: %s", self._plan.fleet, error)  # such as too many open files
                self._closed.wait(0.1)
                continue
            with self._lock:
                if self._closed.is_set() or not self._has_room():
                    connection.close()
                    continue
                self._begin(connection)

    def _has_room(self) -> bool:
        """Whether there is room for one more; whoever has shown no token for longest makes it."""
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        stranger = next(iter(self._strangers), None)
        if stranger is not None:
            del self._strangers[stranger]
            _shut(stranger)
        return stranger is not None

    def _begin(self, connection: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(connection,), name="shmhost-send", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            LOG.warning("fleet %s: bulk: %s", self._plan.fleet, error)  # the system has no thread left
            connection.close()
            return
        self._connections[connection], self._strangers[connection] = thread, None

    def _serve(self, connection: socket.socket) -> None:
        try:
            wire.limit(connection, BEGIN_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is None:
                self._converse(connection, connection)
            else:
                plain = connection.dup()  # TLS takes it; the first stays for `close`, to wake the thread
                plain.settimeout(BEGIN_S)  # of the handshake
                with self._context.wrap_socket(plain, server_side=True) as encrypted:
                    self._converse(encrypted, connection)
        except (OSError, ShmError) as error:
            LOG.debug("fleet %s: a connection for chunks has ended: %s", self._plan.fleet, error)
        finally:
            with self._lock:
                del self._connections[connection]
                self._strangers.pop(connection, None)
            connection.close()

    def _converse(self, connection: socket.socket, key: socket.socket) -> None:
        hello = wire.receive_bytes(connection, len(wire.MAGIC) + wire.TOKEN)
        if not hmac.compare_digest(hello, wire.MAGIC + self._token):
            raise ConnectionError("it has not shown the token")
        with self._lock:
            self._strangers.pop(key, None)
        wire.limit(connection, IDLE_S)
        asker = wire.common_name(connection)
        while True:
            (size,) = wire.REQUEST.unpack(wire.receive_bytes(connection, wire.REQUEST.size))
            if size > wire.MAX_REQUEST:
                raise ConnectionError(f"a request has {size} bytes, and not at most {wire.MAX_REQUEST}")
            self._answer(connection, asker, wire.receive_bytes(connection, size))

    def _answer(self, connection: socket.socket, asker: str | None, question: bytes) -> None:
        try:
            kind, *values = unpack(question)
            if kind != "chunk":
                raise ConnectionError(f"{kind!r:.40} is not a question for a chunk")
            chunk, wait_s = self._look_up(asker, tuple(values))
        except (ShmError, ValueError) as error:
            text = str(error).encode()[: wire.MAX_REFUSAL]
            connection.sendall(wire.ANSWER.pack(wire.REFUSED, len(text)) + text)
            return
        try:
            self._closed.wait(wait_s)
            _send(connection, chunk)
        finally:
            os.close(chunk.descriptor)

    def _look_up(self, asker: str | None, values: tuple[Any, ...]) -> tuple[Chunk, float]:
        """Have the loop find a chunk."""
        future: concurrent.futures.Future[tuple[Chunk, float]] = concurrent.futures.Future()

        def find() -> None:
            if future.set_running_or_notify_cancel():  # else nobody waits, and nobody would close it
                try:
                    future.set_result(self._find(asker, values))
                except Exception as error:
                    future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(find)
        except RuntimeError:
            raise ConnectionError("this host ends") from None
        try:
            return future.result(LOOK_S)
        except concurrent.futures.TimeoutError:
            if future.cancel():
                raise ConnectionError("this host is busy") from None
            return future.result()


def _send(connection: socket.socket, chunk: Chunk) -> None:
    header = wire.ANSWER.pack(wire.DATA, chunk.size)
    offset, end = chunk.offset, chunk.offset + chunk.size
    end_s = time.monotonic() + wire.CHUNK_S
    if isinstance(connection, ssl.SSLSocket):
        connection.sendall(header)
        while offset < end:
            _check_pace(end_s)
            data = os.pread(chunk.descriptor, min(PIECE, end - offset), offset)
            connection.sendall(data)
            offset += len(data)
        return
    connection.sendall(header, socket.MSG_MORE)
    while offset < end:
        _check_pace(end_s)
        count = os.sendfile(connection.fileno(), chunk.descriptor, offset, min(MIB, end - offset))
        if not count:
            raise ConnectionError("the object is shorter than its announcement")
        offset += count


def _check_pace(end_s: float) -> None:
    if time.monotonic() > end_s:
        raise ConnectionError("the peer takes a chunk too slowly")


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
