"""The process that copies values of arenas: how it is started, and what the host says to it."""

from __future__ import annotations

import asyncio
import math
import os
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
from shmhost.fleet.exports import Rights
from shmhost.fleet.outbox import Outbox
from shmhost.fleet.values import Followed, Values, _spawn
from shmprotocol.wire.names import State
from tests.support import wait_until


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
        child = _spawn(other, "folder", ("no lag",))  # too few arguments: it ends once it has its modules
        assert child.wait(60) == 1
    assert other.fileno() == -1


def test_other_users_do_not_see_the_names_of_copies() -> None:
    own, other = socket.socketpair()
    with own:
        child = _spawn(other, "secret-folder", ("/nowhere", "0.05"))
        try:
            path = Path(f"/proc/{child.pid}")
            wait_until(lambda: b"courier" in (path / "cmdline").read_bytes())
            assert b"secret-folder" not in (path / "cmdline").read_bytes()
            assert b"SHMHOST_FLEET_FOLDER=secret-folder" in (path / "environ").read_bytes()
            assert (path / "environ").stat().st_mode & 0o777 == 0o400
        finally:
            child.kill()
            child.wait()


def arena(number: int) -> Any:
    return SimpleNamespace(
        name="camera", number=number, owner=SimpleNamespace(uid=7), mode=0o644, state=State.CURRENT
    )


def test_many_values_that_are_refused_at_once_take_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        hub: Any = SimpleNamespace(registry=SimpleNamespace(arenas=(camera := arena(3),), current={}))
        exports: Any = SimpleNamespace(remove=lambda _: None)
        courier = Values(FleetConfig("fleet.toml", "test", "a", exports=("",)), hub, exports, "/nowhere")
        courier.followed["camera"] = Followed(camera, Rights(7, 0o644))
        courier._ended_s = math.inf  # no process is started
        for _ in range(2):  # each changes once
            for number in range(700):
                await courier._take("refused", "camera", 3, f"{number}", "it is full")
            courier.beat()
        assert len(courier.failed()) == 700
        await courier._take("refused", "camera", 3, "1", "it is closed")
        courier.beat()

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records] == [
        "fleet test: camera/0 is not announced: it is full, nor are 699 more: see `shmhost fleet`",
        "fleet test: camera/1 is not announced: it is closed",
    ]


def test_region_of_another_user_is_not_announced_as_a_value() -> None:
    async def run() -> None:
        squatted = SimpleNamespace(owner=SimpleNamespace(uid=os.geteuid() + 1))
        hub: Any = SimpleNamespace(registry=SimpleNamespace(arenas=(), current={"fleet-1/0": squatted}))
        courier = Values(FleetConfig("fleet.toml", "test", "a"), hub, SimpleNamespace(), "/nowhere")  # type: ignore[arg-type]
        courier.followed["camera"] = Followed(arena(3), Rights(7, 0o644))
        await courier._take("value", "camera", 3, "front", "fleet-1/0", 0, 0)
        assert courier.counts == {}

    asyncio.run(run())


def test_courier_that_starts_while_the_host_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, may_go_on = threading.Event(), threading.Event()
    children: list[subprocess.Popen[bytes]] = []

    def spawn(link: Any, *_: object) -> subprocess.Popen[bytes]:
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
