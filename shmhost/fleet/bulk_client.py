"""Fetches chunks from other hosts over connections beside zenoh's: a thread for each connection. Waits.

A thread sends the requests that have come since the last chunk, receives the next one into a buffer of its
own, and has it checked and written; meanwhile more comes into the buffers of the kernel. Two threads for each
host use two CPUs: most of the work is the memory of the copy, which the kernel has to clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shmhost.fleet import bulk_wire as wire
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import Engine
from shmhost.fleet.events import Refusal
from shmhost.fleet.hashing import LARGE
from shmhost.fleet.joining import ASK_S
from shmhost.fleet.messages import MAX_REASON, pack, unpack
from shmhost.fleet.threads import QUICK, AnyTarget, Threads, fill
from shmprotocol.errors import HostGone, ShmError
from shmprotocol.kernel.constants import KIB, MIB

LOG = logging.getLogger("shmhost")

LANES = 2  # connections to each host
CONNECT_S = 3  # for a connection, and for TLS
MOVE_S = 15  # in which something has to come
CHUNK_S = 15.0  # for one chunk over zenoh: 4 MiB at 2.3 Mbit/s
OPEN_FROM = 64 * KIB  # bytes of a region for which connections are opened, for those after it
BULK_FROM = 2 * MIB  # bytes of a region for which connections are opened; less is there before they are
IDLE_S = 10.0  # after which a connection is closed; the other side waits three times as long
RETRY_S = 30.0  # after which a host is tried again to which no connection could be opened

PIECE = MIB  # bytes that are received, hashed and written at a time: they stay in the cache of a CPU
Brought = tuple[int, bytes]  # the size of what has come, and its hash


class Job:
    """A chunk that is wanted, and its target, which belongs to the job from here on."""

    def __init__(self, question: bytes, target: AnyTarget) -> None:
        self.request: bytes = wire.REQUEST.pack(len(question)) + question
        self._target = target
        self._error: OSError | None = None  # of a write: what comes after it is received all the same
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Brought] = self._loop.create_future()

    async def wait(self) -> Brought:
        """Wait for the chunk. HostGone: the connection has ended. Refusal. OSError: it cannot be written."""
        return await self._future

    def feed(self, data: memoryview) -> None:
        """Take the next piece, in the thread of the connection; nobody may want it any more."""
        if self._future.cancelled() or self._error is not None:
            return
        try:
            self._target.feed(data)
        except OSError as error:
            self._error = error

    def finish(self, size: int) -> None:
        """All has come."""
        if self._error is not None:
            self.fail(self._error)
            return
        digest = self._target.finish()
        self._call(lambda: self._future.set_result((size, digest)))

    def fail(self, error: Exception) -> None:
        """There is no chunk."""
        self._target.close()
        self._call(lambda: self._future.set_exception(error))

    def _call(self, settle: Callable[[], None]) -> None:
        def call() -> None:
            if not self._future.done():
                settle()

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)


class Lane:
    """A connection to a host, with its thread. `load` counts the jobs, in the thread of the loop."""

    def __init__(self, connection: socket.socket) -> None:
        self.load: int = 0
        self.has_failed: bool = False  # before it brought anything: the next one would as well
        self.is_open: bool = True
        self._connection = connection
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # no job comes after the thread has failed those that were there
        self._waiting: deque[Job] = deque()  # whose requests were sent
        self._buffer = memoryview(bytearray(PIECE))
        threading.Thread(target=self._run, name="shmhost-fetch", daemon=True).start()

    async def fetch(self, question: bytes, target: AnyTarget) -> Brought:
        """Fetch a chunk to its target, which is closed then. HostGone: the connection has ended. Refusal."""
        job = Job(question, target)
        with self._lock:
            is_open = self.is_open
            if is_open:
                self._queue.put(job)
        if not is_open:
            job.fail(HostGone("the connection has ended"))
        self.load += 1
        try:
            return await job.wait()
        finally:
            self.load -= 1

    def close(self) -> None:
        """End the connection; jobs fail. From any thread."""
        with contextlib.suppress(OSError):  # that of TLS would have the thread take what comes as it is
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        self._queue.put(None)

    def _run(self) -> None:
        reason: object = "the connection has ended"
        count = 0
        try:
            while self._send() or self._waiting:
                self._receive()
                count += 1
        except (OSError, ShmError) as error:
            reason, self.has_failed = error, not count
        finally:
            with self._lock:
                self.is_open = False
            self._connection.close()
            while not self._queue.empty():
                job = self._queue.get()
                if job is not None:
                    self._waiting.append(job)
            for job in self._waiting:
                job.fail(HostGone(f"the host cannot be reached: {reason}"))

    def _send(self) -> bool:
        """Send all requests that have come, wait for one if none is under way; False: it is time to end."""
        while True:
            try:
                job = self._queue.get(block=not self._waiting, timeout=IDLE_S)
            except queue.Empty:
                return False
            if job is None:
                return False
            self._waiting.append(job)
            self._connection.sendall(job.request)

    def _receive(self) -> None:
        end_s = time.monotonic() + wire.CHUNK_S
        kind, size = wire.ANSWER.unpack(wire.receive_bytes(self._connection, wire.ANSWER.size, end_s))
        if size > (LARGE if kind == wire.DATA else wire.MAX_REFUSAL):
            raise ConnectionError(f"an answer has {size} bytes")
        job = self._waiting[0]
        if kind == wire.DATA:
            for start in range(0, size, PIECE):
                data = self._buffer[: min(PIECE, size - start)]
                wire.receive(self._connection, data, end_s)
                job.feed(data)
            job.finish(size)
        else:
            text = wire.receive_bytes(self._connection, size, end_s)
            job.fail(Refusal(text[:MAX_REASON].decode(errors="replace")))
        self._waiting.popleft()


@dataclass(slots=True)
class Way:
    """The connections to one host; `opening` is what opens them."""

    lanes: list[Lane] = field(default_factory=list)
    opening: asyncio.Task[None] | None = None
    retry_s: float = 0.0  # before this time none is opened


class BulkClient:
    """The connections to all hosts, in the thread of the loop."""

    def __init__(
        self, plan: FleetConfig, engine: Engine, threads: Threads, address: str, counts: Counter[str]
    ) -> None:
        self._plan = plan
        self._engine = engine
        self._threads = threads
        self._address = address
        self._counts = counts
        self._ways: dict[str, Way] = {}

    async def bring(self, source: str, question: bytes, target: AnyTarget, room: int) -> Brought:
        """Bring a chunk to its target, over zenoh if there is no other way; return its size and its hash.

        Connections are opened for a large `room` of its region. HostGone, HostTimeout, Refusal. OSError: of
        the write.
        """
        is_taken = False
        try:
            lane = await self._lane(source, room)
            if lane is not None:
                is_taken = True
                brought = await lane.fetch(question, target)
                self._counts["bulk"] += brought[0]
                return brought
            data = await self._engine.ask(source, question, CHUNK_S, is_bulk=True)
            is_taken = True
            if len(data) <= QUICK:
                return len(data), fill(target, data)
            return len(data), await self._threads.run(fill, target, data)
        finally:
            if not is_taken:
                target.close()

    def leave(self, source: str) -> None:
        """A host has gone."""
        way = self._ways.pop(source, None)
        if way is not None:
            _close(way)

    async def close(self) -> None:
        """End all connections."""
        ways = list(self._ways.values())
        self._ways.clear()
        for way in ways:
            _close(way)
        tasks = [way.opening for way in ways if way.opening is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _lane(self, source: str, room: int) -> Lane | None:
        """Return the connection to a host that has the least to do; None: there is none now."""
        if room < OPEN_FROM and source not in self._ways:
            return None
        way = self._ways.setdefault(source, Way())
        if any(lane.has_failed for lane in way.lanes):
            way.retry_s = time.monotonic() + RETRY_S  # as of a certificate that is refused
        way.lanes = [lane for lane in way.lanes if lane.is_open]
        if not way.lanes and room >= OPEN_FROM and time.monotonic() >= way.retry_s:
            if way.opening is None:
                way.opening = asyncio.get_running_loop().create_task(self._open(source, way))
            if room >= BULK_FROM:
                await asyncio.shield(way.opening)
        return min(way.lanes, key=lambda lane: lane.load, default=None)

    async def _open(self, source: str, way: Way) -> None:
        """Open the connections to a host, or note when to try again."""
        try:
            answer = await self._engine.ask(source, pack("bulk", self._address), ASK_S)
            ports = wire.ports_of(unpack(answer))
            loop, name = asyncio.get_running_loop(), self._engine.name_of(source)
            way.lanes = [Lane(each) for each in await loop.run_in_executor(None, self._connect, ports, name)]
            if self._ways.get(source) is not way:
                _close(way)
        except (OSError, ShmError, ValueError) as error:
            LOG.info("fleet %s: chunks of %s come over zenoh: %s", self._plan.fleet, source, error)
        finally:
            if not way.lanes:
                way.retry_s = time.monotonic() + RETRY_S
            way.opening = None

    def _connect(self, ports: wire.Ports, name: str) -> list[socket.socket]:
        """Return the connections to a host, at the address that the link of zenoh has. Waits."""
        address = self._engine.link_address(ports.session)
        port = ports.at(wire.numeric(address)) if address else None
        if address is None or port is None:
            raise HostGone("it names no port at the address of a link")
        if ports.is_tls != (self._plan.tls is not None):
            raise HostGone("one of both hosts has TLS, and the other has not")
        with contextlib.ExitStack() as stack:
            there = address, port
            connections = [
                stack.enter_context(self._connected(there, ports.token, name)) for _ in range(LANES)
            ]
            stack.pop_all()
        return connections

    def _connected(self, address: tuple[str, int], token: bytes, name: str) -> socket.socket:
        connection = socket.create_connection(address, timeout=CONNECT_S)
        try:
            connection.settimeout(None)
            wire.limit(connection, CONNECT_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._plan.tls is not None:
                connection.settimeout(CONNECT_S)  # of the handshake
                connection = wire.client_context(self._plan.tls).wrap_socket(connection)
            shown = wire.common_name(connection)
            if self._plan.access.peers is not None and shown != name:
                raise HostGone(f"the certificate there is that of {shown!r}, not of {name!r}")
            connection.sendall(wire.MAGIC + token)
            wire.limit(connection, MOVE_S)
        except BaseException:
            connection.close()
            raise
        return connection


def _close(way: Way) -> None:
    for lane in way.lanes:
        lane.close()
