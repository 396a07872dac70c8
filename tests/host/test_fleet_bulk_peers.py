"""Connections for chunks with peers that are slow, strange, or not whom they should be."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.fleet_hosts import WINDOW
from shmhost.fleet import bulk_server
from shmhost.fleet import bulk_wire as wire
from shmhost.fleet.access import Access, Rights
from shmhost.fleet.bulk_client import BulkClient, Lane
from shmhost.fleet.bulk_server import BulkServer
from shmhost.fleet.config import FleetConfig, read_fleet
from shmhost.fleet.events import Refusal
from shmhost.fleet.messages import pack
from shmhost.fleet.threads import Chunk, Target
from shmprotocol.errors import HostGone
from shmprotocol.kernel.constants import MIB
from tests.fleet_certificates import make_ca, needs_openssl, write_tls

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

PLAN = FleetConfig("fleet.toml", "test", "a", listen=("tcp/127.0.0.1:1",))


def refuse(_asker: str | None, _values: tuple[Any, ...]) -> tuple[Chunk, float]:
    raise Refusal("not for you")


@contextlib.contextmanager
def serving(plan: FleetConfig = PLAN) -> Iterator[wire.Ports]:
    """Run a server that refuses all; only its answers need the loop."""
    server = BulkServer(plan, refuse)
    server.open()
    try:
        yield server.ports("e" * 32)
    finally:
        server.close()


@contextlib.contextmanager
def trickle(sock: socket.socket, *, is_sending: bool) -> Iterator[None]:
    """Be a peer that sends or takes a byte now and then, and never ends."""
    is_over = threading.Event()

    def run() -> None:
        with contextlib.suppress(OSError):
            while not is_over.wait(0.01):
                sock.send(b"x") if is_sending else sock.recv(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        sock.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_chunk_that_comes_too_slowly_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CHUNK_S", 0.1, raising=False)

    async def run() -> None:
        near, far = socket.socketpair()
        memory_object = os.memfd_create("test")
        with far:
            far.send(wire.ANSWER.pack(wire.DATA, MIB))
            lane = Lane(near)
            with trickle(far, is_sending=True), pytest.raises(HostGone, match="too slowly"):
                await asyncio.wait_for(lane.fetch(b"", Target(memory_object, MIB, 0)), 30)
        os.close(memory_object)

    asyncio.run(run())


def test_chunk_that_is_taken_too_slowly_is_not_sent_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "CHUNK_S", 0.1, raising=False)
    near, far = socket.socketpair()
    memory_object = os.memfd_create("test")
    os.truncate(memory_object, 4 * MIB)
    with near, far:
        near.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, b"".join((bytes(8), (500_000).to_bytes(8, "little")))
        )
        with trickle(far, is_sending=False), pytest.raises(ConnectionError, match="too slowly"):
            bulk_server._send(near, Chunk(memory_object, 0, 4 * MIB))
    os.close(memory_object)


def test_strangers_make_room_for_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_server, "MAX_CONNECTIONS", 3)

    async def run() -> None:
        with serving() as ports, contextlib.ExitStack() as stack:
            strangers = [stack.enter_context(socket.create_connection(ports.addresses[0])) for _ in range(3)]
            strangers[0].settimeout(30)
            member = socket.create_connection(ports.addresses[0])
            member.sendall(wire.MAGIC + ports.token)
            lane, memory_object = Lane(member), os.memfd_create("test")
            with pytest.raises(Refusal, match="not for you"):
                await lane.fetch(pack("chunk", "x"), Target(memory_object, MIB, 0))
            assert await asyncio.to_thread(strangers[0].recv, 1) == b""
            lane.close()
            os.close(memory_object)

    asyncio.run(run())


def test_server_goes_on_when_the_system_has_no_thread_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, has_failed = threading.Thread.start, []

    def refuse_first(thread: threading.Thread) -> None:
        if thread.name == "shmhost-send" and not has_failed:
            has_failed.append(True)
            raise RuntimeError("can't start new thread")
        start(thread)

    async def run() -> None:
        with serving() as ports:
            monkeypatch.setattr(threading.Thread, "start", refuse_first)
            for answer in (b"", wire.ANSWER.pack(wire.REFUSED, 11)):
                with socket.create_connection(ports.addresses[0], timeout=30) as member:
                    with contextlib.suppress(OSError):
                        member.sendall(wire.MAGIC + ports.token + wire.REQUEST.pack(9) + pack("chunk", "x"))
                    received = b""
                    with contextlib.suppress(ConnectionError):
                        received = await asyncio.to_thread(member.recv, wire.ANSWER.size)
                    assert received == answer

    asyncio.run(run())


@needs_openssl
def test_host_asks_only_the_host_whose_certificate_it_expects(tmp_path: Path) -> None:
    ca = make_ca(tmp_path, "ca")
    plans = [read_fleet(write_tls(tmp_path, name, "127.0.0.1:1", [], ca, ca[0]), (WINDOW,)) for name in "ab"]
    plan = dataclasses.replace(plans[1], access=Access({name: Rights(("",), ("",)) for name in "ac"}))
    engine: Any = SimpleNamespace(link_address=lambda _: "127.0.0.1")

    async def run() -> None:
        client = BulkClient(plan, engine, None, "f" * 32, None)  # type: ignore[arg-type]
        with serving(plans[0]) as ports:
            for connection in await asyncio.to_thread(client._connect, ports, "a"):
                connection.close()
            with pytest.raises(HostGone, match="that of 'a', not of 'c'"):
                await asyncio.to_thread(client._connect, ports, "c")

    asyncio.run(run())
