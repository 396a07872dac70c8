"""Regions of a killed host that nobody has handed back yet: counted, unlinked, and given up in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_returns import Held, hand_back, holding, put

import shmclient
from shmhost.core import records
from shmhost.core.objects import SHM_FOLDER
from shmhost.serving.predecessor import EXPECT_S
from shmprotocol.errors import AccessDenied, RegionNotFound
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.query import Query
from support import Machine, RawPeer, as_nobody, needs_root, wait_until, watched_host

VALUE = b"1" * 5000
SIZE = 12288  # of its object
SHM_NAME = f"shm{os.getpid()}"


def measured(path: str) -> tuple[int, int]:
    with Query(path) as query:
        reply = query.measure()
    return reply.expected, reply.expected_bytes


def names(path: str) -> list[str]:
    with shmclient.connect(path) as shm:
        return [info.name for info in shm.list()]


def is_taken(path: str, held: Held) -> bool:
    with RawPeer(path) as peer:
        (grant,) = hand_back(peer, (held.grant.region, held.descriptor))
    return grant.lease != 0


@contextlib.contextmanager
def expecting(machine: Machine, *expected: str, mode: int = 0o600) -> Iterator[list[Held]]:
    """Restart a host that had these names, which wait to be handed back."""
    for name in expected:
        put(machine.path, name, VALUE, mode=mode)
    with holding(machine.path, *expected) as held:
        machine.restart()
        yield held


def test_what_may_come_back_is_counted_until_it_is_back(machine: Machine) -> None:
    with expecting(machine, "x", "y") as (first, second):
        assert measured(machine.path) == (2, 2 * SIZE)
        assert is_taken(machine.path, first)
        assert measured(machine.path) == (1, SIZE)
        assert is_taken(machine.path, second)
        assert measured(machine.path) == (0, 0)


def test_name_that_is_published_anew_is_not_missed_any_more(machine: Machine) -> None:
    with expecting(machine, "x") as (held,):
        assert measured(machine.path) == (1, SIZE)
        put(machine.path, "x", b"2")
        assert measured(machine.path) == (0, 0)
        assert is_taken(machine.path, held)


def test_unlinked_name_is_gone_for_good_and_its_holder_keeps_the_region(machine: Machine) -> None:
    with expecting(machine, "x") as (held,), shmclient.connect(machine.path) as shm:
        shm.unlink("x")
        with pytest.raises(RegionNotFound):
            shm.unlink("x")
        machine.restart()  # and so it is for the next one
        assert measured(machine.path) == (0, 0)
        assert is_taken(machine.path, held)
        assert names(machine.path) == []


def test_unlink_of_a_name_reaches_the_newer_region_that_is_not_back(machine: Machine) -> None:
    """A host that is killed between two notes leaves two current regions of a name."""
    with contextlib.ExitStack() as stack:
        older, newer = [stack.enter_context(kept(machine.path, "x", value)) for value in (b"1", b"2")]
        machine.kill()
        make_current(f"{machine.path}.state", older.grant.region)
        machine.start()
        with RawPeer(machine.path) as peer, shmclient.connect(machine.path) as shm:
            assert hand_back(peer, (older.grant.region, older.descriptor))[0].lease
            assert shm.stat("x").generation == older.grant.generation
            shm.unlink("x")
            assert hand_back(peer, (newer.grant.region, newer.descriptor))[0].lease
            assert names(machine.path) == []


@contextlib.contextmanager
def kept(path: str, name: str, value: bytes) -> Iterator[Held]:
    """Put a value, and keep a lease of it until the host is gone."""
    put(path, name, value)
    with RawPeer(path) as peer:
        reply, fds = peer.ask(m.Open(2, (name,), (), False))
        assert isinstance(reply, m.Opened)
        try:
            yield Held(reply.grants[0], fds[0])
        finally:
            close_all(fds)


def make_current(path: str, number: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[2048:2176] = bytes(128)  # the note of the latest reply says that it has lost its name
    for offset in range(4096, len(data), records.SIZE):
        record = records.read(bytes(data[offset : offset + records.SIZE]), offset)
        if record is not None and record.number == number:
            data[offset] = 1
    Path(path).write_bytes(data)


@needs_root
@pytest.mark.parametrize(("mode", "error"), [(0o600, RegionNotFound), (0o604, AccessDenied)])
def test_only_who_may_write_unlinks_a_name_that_is_not_back(
    mode: int, error: type[Exception], folder: Path
) -> None:
    folder.chmod(0o755)
    machine = Machine(folder / "h.sock")
    machine.start()
    with expecting(machine, "x", mode=mode) as (held,):
        Path(machine.path).chmod(0o666)

        def attack() -> None:
            with shmclient.connect(machine.path) as shm:
                with pytest.raises(error) as refusal:
                    shm.unlink("x")
                assert "killed" not in str(refusal.value)
                with pytest.raises(RegionNotFound) as hidden:
                    shm.stat("x")
                assert ("killed" in str(hidden.value)) is (mode == 0o604)

        assert as_nobody(attack) == 0
        assert is_taken(machine.path, held)
        assert names(machine.path) == ["x"]
    machine.kill()


@needs_root
def test_other_user_who_may_write_unlinks_a_name_that_is_not_back(folder: Path) -> None:
    folder.chmod(0o755)
    machine = Machine(folder / "h.sock")
    machine.start()
    with expecting(machine, "x", mode=0o606) as (held,):
        Path(machine.path).chmod(0o666)

        def unlink() -> None:
            with shmclient.connect(machine.path) as shm:
                shm.unlink("x")

        assert as_nobody(unlink) == 0
        assert is_taken(machine.path, held)
        assert names(machine.path) == []
    machine.kill()


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "shmhost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_commands_say_what_may_come_back(machine: Machine) -> None:
    with expecting(machine, "x", "y"):
        socket = ("--socket", machine.path)
        view = json.loads(run("top", "--json", "--once", "--interval", "0.1", *socket))
        assert (view["expected"], view["expected_bytes"]) == (2, 2 * SIZE)
        assert re.search(r"expected +2 regions +24.0 KiB", run("top", "--once", "--interval", "0.1", *socket))
        findings = json.loads(run("doctor", "--json", *socket))
        assert [row["found"][:25] for row in findings if row["topic"] == "restart"] == [
            "2 regions (24.0 KiB) of a"
        ]
        run("rm", *socket, "x", "y")
    machine.restart()
    assert measured(machine.path) == (0, 0)
    assert "restart" not in [row["topic"] for row in json.loads(run("doctor", "--json", *socket))]


def files(name: str) -> list[str]:
    return [entry for entry in os.listdir(SHM_FOLDER) if entry.endswith(f".{name}")]


def test_file_of_an_unlinked_name_is_gone_with_it(machine: Machine) -> None:
    put(machine.path, SHM_NAME, VALUE, backend="shm")
    machine.restart()
    assert len(files(SHM_NAME)) == 1
    with shmclient.connect(machine.path) as shm:
        shm.unlink(SHM_NAME)
        wait_until(lambda: files(SHM_NAME) == [])


# --- given up in time


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock the test turns."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def test_watch_hears_of_what_is_given_up_after_ten_minutes(machine: Machine) -> None:
    loop = Loop()

    def turn(seconds: float) -> None:
        loop.ahead_s += seconds

    for name in ("a/x", "a/y", "b"):
        put(machine.path, name, VALUE)
    put(machine.path, f"a/{SHM_NAME}", VALUE, backend="shm")
    with holding(machine.path, "a/x", "a/y") as (held, lost):
        machine.kill()
        with watched_host(machine.path, options={"loop_factory": lambda: loop}) as host:
            with RawPeer(machine.path) as peer:
                assert hand_back(peer, (held.grant.region, held.descriptor))[0].lease
                peer.send(pack(m.Watch(7, "a/")))
                host.call(lambda: turn(EXPECT_S - 30))
                assert measured(machine.path) == (3, 3 * SIZE)
                host.call(lambda: turn(31))
                events = [peer.receive()[0] for _ in range(3)]
                assert events[0] == m.Done(7)
                assert {(event.kind, event.info.name, event.info.state) for event in events[1:]} == {  # type: ignore[union-attr]
                    ("unlinked", "a/y", "unlinked"),
                    ("unlinked", f"a/{SHM_NAME}", "unlinked"),
                }
                assert measured(machine.path) == (0, 0)
                wait_until(lambda: files(f"a%2F{SHM_NAME}") == [])
                put(machine.path, "a/y", b"2")
                event, _ = peer.receive()
                assert (event.kind, event.info.name) == ("published", "a/y")  # type: ignore[union-attr]
            assert lost.grant.region
