"""The process that copies values of arenas: how it is started, and what the host says to it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from shmhost.fleet import outbox, values
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.outbox import Outbox
from shmhost.fleet.values import Values, _spawn


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    own, other = socket.socketpair()
    own.setblocking(False)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with own, other:
        yield own, other


def test_messages_come_whole_and_in_order_to_a_process_that_reads_late(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    own, other = pair
    names = [f"arena/{number:0200}" for number in range(1000)]

    async def run() -> list[str]:
        box = Outbox(own)
        for number, name in enumerate(names):
            box.say("arena", name, number)
        unpacker, received = msgpack.Unpacker(use_list=False), list[str]()
        other.setblocking(False)
        while len(received) < len(names):
            unpacker.feed(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(other, 1000), 30))
            received += [name for _, name, _ in unpacker]
        box.close()
        return received

    assert asyncio.run(run()) == names


def test_link_ends_when_the_process_never_reads(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, _ = pair
    monkeypatch.setattr(outbox, "MAX_WAITING", 10_000)

    async def run() -> bytes:
        box = Outbox(own)
        for number in range(1000):
            box.say("arena", "x" * 200, number)
        return await asyncio.get_running_loop().sock_recv(own, 1)

    assert asyncio.run(run()) == b""


def test_courier_takes_no_module_from_the_folder_where_the_host_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgpack.py").write_text("import os\nos._exit(42)\n")
    monkeypatch.chdir(tmp_path)
    own, other = socket.socketpair()
    with own:
        child = _spawn(other, ("no lag",))  # too few arguments: it ends once it has its modules
        assert child.wait(60) == 1
    assert other.fileno() == -1


def test_courier_that_starts_while_the_host_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()
    children: list[subprocess.Popen[bytes]] = []

    def spawn(link: Any, _: object) -> subprocess.Popen[bytes]:
        has_begun.set()
        may_go_on.wait(30)
        with link:
            children.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=link, stderr=-3))
        return children[0]

    async def run() -> None:
        hub: Any = SimpleNamespace(registry=SimpleNamespace(arenas=(), current={}))
        exports: Any = SimpleNamespace()
        courier = Values(FleetConfig("fleet.toml", "test", "a"), hub, exports, "/nowhere")
        courier._task = asyncio.create_task(courier._run())
        await asyncio.to_thread(has_begun.wait, 30)
        closing = asyncio.create_task(courier.close())
        asyncio.get_running_loop().call_soon(may_go_on.set)
        await closing

    monkeypatch.setattr(values, "_spawn", spawn)
    asyncio.run(run())
    assert children[0].returncode is not None
