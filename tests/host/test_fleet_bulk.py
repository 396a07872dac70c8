"""Connections that carry chunks: who may use them, and what becomes of a chunk when one ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fleet_hosts import WINDOW
from shmhost.fleet import bulk_wire as wire
from shmhost.fleet.bulk_client import Lane
from shmhost.fleet.bulk_server import BulkServer
from shmhost.fleet.config import FleetConfig, read_fleet
from shmhost.fleet.events import Refusal
from shmhost.fleet.hashing import leaf
from shmhost.fleet.messages import pack, unpack
from shmhost.fleet.threads import Chunk, Target
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import HostGone, RemoteProtocolError
from shmprotocol.kernel.constants import MIB
from tests.fleet_certificates import make_ca, needs_openssl, write_tls

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

PLAN = FleetConfig("fleet.toml", "test", "a", listen=("tcp/127.0.0.1:1",))
SIZE = 3 * MIB + 5
DATA = os.urandom(SIZE)


def memory(data: bytes = b"") -> int:
    """Return an object with room for a header and so many bytes."""
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.truncate(descriptor, HEADER_SIZE + SIZE)
    os.pwrite(descriptor, data, HEADER_SIZE)
    return descriptor


def find(asker: str | None, values: tuple[Any, ...]) -> tuple[Chunk, float]:
    if values[0] != "x":
        raise Refusal(f"{values[0]!r} is another generation here, or gone")
    return Chunk(memory(DATA), HEADER_SIZE + 2 * MIB, MIB), 0.0


def connected(port: int, hello: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(hello)
    connection.settimeout(None)
    return connection


def serve(use: Callable[[wire.Ports], Coroutine[Any, Any, None]]) -> None:
    """Run a server, and what uses it, in one loop."""

    async def run() -> None:
        server = BulkServer(PLAN, find)
        server.open()
        try:
            await use(server.ports("e" * 32))
        finally:
            await asyncio.to_thread(server.close)

    asyncio.run(run())


def test_chunks_come_to_their_places_in_pieces() -> None:
    async def use(ports: wire.Ports) -> None:
        lane = Lane(connected(ports.addresses[0][1], wire.MAGIC + ports.token))
        memory_object = memory()
        before = len(os.listdir("/proc/self/fd"))
        fetched = [lane.fetch(pack("chunk", "x"), Target(memory_object, SIZE, 2)) for _ in range(5)]
        refused = lane.fetch(pack("chunk", "y"), Target(memory_object, SIZE, 2))
        *brought, refusal = await asyncio.gather(*fetched, refused, return_exceptions=True)
        assert brought == [(MIB, leaf(DATA[2 * MIB : 3 * MIB]))] * 5
        assert isinstance(refusal, Refusal)
        assert "another generation" in str(refusal)
        assert os.pread(memory_object, MIB, HEADER_SIZE + 2 * MIB) == DATA[2 * MIB : 3 * MIB]
        assert os.pread(memory_object, 2 * MIB, HEADER_SIZE) == bytes(2 * MIB)
        assert len(os.listdir("/proc/self/fd")) == before
        lane.close()

    serve(use)


@needs_openssl
def test_server_knows_an_asker_by_its_certificate(tmp_path: Path) -> None:
    ca = make_ca(tmp_path, "ca")
    plans = [read_fleet(write_tls(tmp_path, name, "127.0.0.1:1", [], ca, ca[0]), (WINDOW,)) for name in "ab"]
    askers = []

    def refuse(asker: str | None, _values: tuple[Any, ...]) -> tuple[Chunk, float]:
        askers.append(asker)
        raise Refusal("not for you")

    async def run() -> None:
        server = BulkServer(plans[0], refuse)
        server.open()
        ports = server.ports("e" * 32)
        assert plans[1].tls is not None
        plain = connected(ports.addresses[0][1], b"")
        encrypted = await asyncio.to_thread(wire.client_context(plans[1].tls).wrap_socket, plain)
        encrypted.sendall(wire.MAGIC + ports.token)
        lane = Lane(encrypted)
        with pytest.raises(Refusal, match="not for you"):
            await lane.fetch(pack("chunk", "x"), Target(memory(), SIZE, 0))
        lane.close()
        await asyncio.to_thread(server.close)

    asyncio.run(run())
    assert askers == ["b"]


def test_server_sends_nothing_without_its_token() -> None:
    async def use(ports: wire.Ports) -> None:
        question = pack("chunk", "x")
        request = wire.REQUEST.pack(len(question)) + question
        stranger = connected(ports.addresses[0][1], wire.MAGIC + bytes(wire.TOKEN) + request)
        with stranger, pytest.raises(ConnectionError):
            await asyncio.to_thread(wire.receive_bytes, stranger, 1)

    serve(use)


@pytest.mark.parametrize(
    "answer",
    [
        wire.ANSWER.pack(wire.DATA, MIB) + b"x" * 1000,  # and it ends
        wire.ANSWER.pack(wire.DATA, 2**31),
        wire.ANSWER.pack(wire.REFUSED, 2**31),
        b"",
    ],
)
def test_chunks_of_a_connection_that_ends_fail_and_leave_no_descriptor(answer: bytes) -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        lane, memory_object = Lane(near), memory()
        before = len(os.listdir("/proc/self/fd"))
        jobs = [asyncio.ensure_future(lane.fetch(b"?", Target(memory_object, SIZE, 0))) for _ in range(3)]
        await asyncio.to_thread(wire.receive_bytes, far, 3 * 5)
        far.sendall(answer)
        far.shutdown(socket.SHUT_WR)
        for result in await asyncio.gather(*jobs, return_exceptions=True):
            assert isinstance(result, HostGone)
        with pytest.raises(HostGone):
            await lane.fetch(b"?", Target(memory_object, SIZE, 0))
        assert not lane.is_open
        assert len(os.listdir("/proc/self/fd")) == before - 1  # that of the connection
        far.close()

    asyncio.run(run())


def test_too_large_a_chunk_stays_within_its_target() -> None:
    memory_object = memory()
    target = Target(memory_object, SIZE, 3)
    target.feed(b"x" * MIB)
    assert target.finish() == leaf(b"x" * MIB)  # so its sender is found out
    assert os.fstat(memory_object).st_size == HEADER_SIZE + SIZE
    assert os.pread(memory_object, 6, HEADER_SIZE + 3 * MIB - 1) == b"\0xxxxx"


def test_only_the_address_of_a_link_is_connected_to() -> None:
    ports = wire.ports_of(unpack(pack("s", bytes(16), False, (("10.0.0.9", 22), ("127.0.0.1", 7)))))
    assert ports.at("127.0.0.1") == 7
    assert ports.at("192.168.1.1") is None
    assert wire.Ports("s", bytes(16), False, (("::", 9),)).at("fe80::1") == 9


@pytest.mark.parametrize(
    "values",
    [
        ("s", bytes(15), False, ()),
        ("s", bytes(16), 1, ()),
        ("s", bytes(16), False, (("example.org", 80),)),
        ("s", bytes(16), False, (("127.0.0.1", 0),)),
        ("s", bytes(16), False, (("127.0.0.1", 1),) * 65),
    ],
)
def test_ports_of_a_hostile_host_are_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.ports_of(unpack(pack(*values)))
