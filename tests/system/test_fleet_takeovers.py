"""A host of a fleet that takes the place of another: real processes on this machine, over loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmclient
from benchmarks.fleet_hosts import WINDOW, free_ports
from tests.fleet_support import statuses, write_plan
from tests.support import wait_until
from tests.takeover_support import HalfSuccessor, Line

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

SHARED = {"export": ["models/", "camera/"], "import": ["models/", "camera/"], "lag": 0.0}
OPTIONS = "--window", "{:#x}:{}".format(*WINDOW), "--budget", "256M"
SLICES = 8
# A successor that does not join before a file is there.
LATE = """
import asyncio, os
from shmhost.cli import main
from shmhost.fleet import rejoining

end_of = rejoining._end_of

async def end_and_word(connection):
    await end_of(connection)
    while not os.path.exists({word!r}):
        await asyncio.sleep(0.01)

rejoining._end_of = end_and_word
main()
"""


class Hosts:
    """Two hosts of a fleet: the first has its slice by agreement, the second by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: list[int] = free_ports(3)
        keys = {"slices": SLICES, **SHARED}
        self.plan: str = write_plan(folder, "first", self.ports[0], self.ports[1:2], **keys)
        second = write_plan(folder, "second", self.ports[1], (), slice=3, **keys)
        self.second: Line = Line(folder / "b", "--fleet", second, *OPTIONS)
        self.first: Line = Line(folder / "a", "--fleet", self.plan, *OPTIONS)
        self.new: list[list[str]] = self.descriptors()

    def descriptors(self) -> list[list[str]]:
        """Return the kinds of what each has open."""
        return [self.first.descriptors(), self.second.descriptors()]

    def line(self, name: str) -> Line:
        return self.first if name == "first" else self.second

    def close(self) -> None:
        self.first.close()
        self.second.close()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The same hosts for all tests: each leaves them as it has found them, but for their processes."""
    with contextlib.closing(Hosts(tmp_path_factory.mktemp("fleet"))) as running:
        yield running


@contextlib.contextmanager
def clients(hosts: Hosts) -> Iterator[tuple[shmclient.Client, shmclient.Client]]:
    """Connect to both hosts, which see each other; leave no names."""
    with shmclient.connect(hosts.first.path) as shm, shmclient.connect(hosts.second.path) as other:
        for here, there, name in ((shm, other, "models/first"), (other, shm, "models/second")):
            here.put(name, b"1").close()
            value(there, name)
            here.unlink(name)
            wait_until(lambda there=there, name=name: name not in there, 60)
        yield shm, other
        for info in [*shm.list(), *other.list()]:
            with contextlib.suppress(shmclient.ShmError):  # a copy goes with its original
                shm.unlink(info.name)
        wait_until(lambda: not [*shm.list(), *other.list()], 60, lambda: [*shm.list(), *other.list()])


def value(shm: shmclient.Client, name: str) -> bytes:
    """Return a value that is there, or will be."""
    return bytes(shm.get(name, wait=60))


def slice_of(address: int) -> int:
    return (address - WINDOW[0]) * SLICES // WINDOW[1]


@contextlib.contextmanager
def stopped(line: Line) -> Iterator[None]:
    os.kill(line.child.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(line.child.pid, signal.SIGCONT)


@pytest.mark.parametrize("name", ["first", "second"])
def test_copy_is_the_copy_after_a_takeover_of_either_side(hosts: Hosts, name: str) -> None:
    with clients(hosts) as (shm, other), other.watch("models/") as changes:
        address = shm.put("models/x", b"1" * 3_000_000, mode=0o644).address
        copy = other.open("models/x", wait=60)
        hosts.line(name).take_over()
        assert copy.is_current()
        with shm.put("models/x", b"2", mode=0o644) as region:
            assert slice_of(region.address) == slice_of(address)
        wait_until(lambda: other.get("models/x") == b"2", 60)
        shm.chmod("models/x", 0o600)
        wait_until(lambda: other.stat("models/x").mode == 0o400, 60)
        shm.unlink("models/x")
        heard = [next(changes) for _ in range(4)]
        assert [each.kind for each in heard] == ["published", "published", "changed", "unlinked"]
        assert heard[0].info.address == copy.address == address
        assert bytes(copy.data[:2]) == b"11"
        copy.close()


@pytest.mark.parametrize("name", ["first", "second"])
def test_clients_are_served_before_a_successor_has_joined(hosts: Hosts, name: str, tmp_path: Path) -> None:
    word = tmp_path / "join"
    with clients(hosts) as (shm, other):
        for each in ("models/gone", "models/new", "models/stays"):
            shm.put(each, b"1").close()
            value(other, each)
        with other.put("y", b"y") as region:  # not exported
            assert slice_of(region.address) == 3
        stays = other.open("models/stays")
        hosts.line(name).take_over(program=("-c", LATE.format(word=str(word))))
        with other.put("y", b"yy") as region:
            assert slice_of(region.address) == 3
        shm.unlink("models/gone")
        shm.put("models/new", b"2").close()
        assert value(other, "models/gone") == value(other, "models/new") == b"1"
        word.touch()
        wait_until(lambda: "models/gone" not in other and other.get("models/new") == b"2", 60)
        assert stays.is_current()
        stays.close()
        other.unlink("y")
        hosts.line(name).take_over()  # one without the word


def test_successor_whose_port_is_taken_joins_when_that_is_free(hosts: Hosts, tmp_path: Path) -> None:
    word = tmp_path / "join"
    with clients(hosts) as (shm, other):
        hosts.second.take_over(program=("-c", LATE.format(word=str(word))))
        with socket.create_server(("127.0.0.1", hosts.ports[1])):
            word.touch()
            assert hosts.second.child.stderr is not None
            assert any("it tries again" in line for line in hosts.second.child.stderr)
            other.put("models/y", b"y").close()
        assert value(shm, "models/y") == b"y"
        other.unlink("models/y")
        hosts.second.take_over()  # one without the word


def test_host_that_does_not_answer_is_in_nobodys_way(hosts: Hosts) -> None:
    with clients(hosts) as (shm, other):
        shm.put("models/x", b"1").close()
        value(other, "models/x")
        with stopped(hosts.first):
            hosts.second.take_over()
            other.put("models/y", b"y").close()
            assert value(other, "models/x") == b"1"
            hosts.second.take_over()  # also one that has not joined yet
            assert value(other, "models/y") == b"y"
        assert value(shm, "models/y") == b"y"
        shm.put("models/x", b"2").close()
        wait_until(lambda: other.get("models/x") == b"2", 60)
        other.unlink("models/y")


def test_copy_is_a_source_after_a_takeover(hosts: Hosts, tmp_path: Path) -> None:
    plan = write_plan(tmp_path, "third", hosts.ports[2], hosts.ports[:2], slices=SLICES, fetch=["models/"])
    with clients(hosts) as (shm, other), contextlib.ExitStack() as stack:
        third = Line(tmp_path / "c", "--fleet", plan, *OPTIONS)
        stack.callback(third.close)
        reader = stack.enter_context(shmclient.connect(third.path))
        shm.put("models/x", b"x" * 3_000_000).close()
        shm.put("models/y", b"y").close()
        value(other, "models/x")
        assert value(reader, "models/y") == b"y"  # so the third one knows all that the first has
        hosts.second.take_over()
        assert other.stat("models/x").mode == 0o400
        other.put("models/z", b"z").close()
        assert value(reader, "models/z") == b"z"  # and is linked to the successor
        hosts.first.child.kill()
        hosts.first.child.wait()
        try:
            assert value(reader, "models/x") == b"x" * 3_000_000
        finally:
            hosts.first.kill_and_start()
        other.unlink("models/z")


@pytest.mark.parametrize("steps", ["ask hear start read_some", "ask hear start read_all ready let_go"])
def test_host_goes_on_in_the_fleet_when_its_successor_dies(hosts: Hosts, steps: str) -> None:
    with clients(hosts) as (shm, other):
        shm.put("models/x", b"1" * 3_000_000).close()
        value(other, "models/x")
        before = {each["name"]: each["address"] for each in statuses(hosts.plan)}
        successor = HalfSuccessor(hosts.first.path, (WINDOW,))
        for step in steps.split():
            getattr(successor, step)()
        successor.die()
        shm.put("models/x", b"2").close()
        wait_until(lambda: other.get("models/x") == b"2", 60)
        assert {each["name"]: each["address"] for each in statuses(hosts.plan)} == before


@pytest.mark.parametrize("name", ["first", "second"])
def test_values_of_arenas_follow_after_a_takeover(hosts: Hosts, name: str) -> None:
    with clients(hosts) as (shm, other):
        with shm.arena("camera", 16 * 2**20, mode=0o644) as camera:
            camera["front"], camera["left"] = np.arange(1000), np.ones(3)
            values = other.follow("camera/front", wait=60)
            assert next(values).sum() == 499_500
            other.get("camera/left", wait=60)
            hosts.line(name).take_over()
            assert other.get("camera/left").sum() == 3
            camera["front"] = np.full(5, 7)
            while next(values).sum() != 35:  # the value of before may come once more
                pass
            del camera["left"]
            wait_until(lambda: [info.name for info in other.list()] == ["camera/front"], 60)
            assert [info.name for info in shm.list()] == [
                "camera"
            ]  # copies have no names where they come from
        shm.unlink("camera")


def test_host_that_was_taken_over_often_has_as_many_descriptors_as_a_new_one(hosts: Hosts) -> None:
    with clients(hosts) as (shm, other):
        with shm.arena("camera", 2**21) as camera:
            for number in range(2):
                for line in (hosts.first, hosts.second):
                    line.take_over()
                shm.put("models/x", b"%d" % number * 3_000_000).close()
                camera["front"] = b"%d" % number
                for name in ("models/x", "camera/front"):
                    wait_until(lambda name=name, n=number: value(other, name)[:1] == b"%d" % n, 60)
        shm.unlink("camera")
    for line in (hosts.first, hosts.second):
        line.take_over()  # without an arena, and so without a process that copies its values
    wait_until(lambda: hosts.descriptors() == hosts.new, 60, lambda: (hosts.new, hosts.descriptors()))


def test_host_of_another_fleet_or_none_or_another_slice_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    keys = {"slices": SLICES, "slice": 3, **SHARED}
    other = write_plan(tmp_path, "second", hosts.ports[1], (), **{**keys, "fleet": "other"})
    assert "it is in fleet 'test', of 8 slices, and stays so" in hosts.second.fail("--fleet", other)
    slice_4 = write_plan(tmp_path, "second", hosts.ports[1], (), **{**keys, "slice": 4})
    assert "it has slice 3, also after a takeover" in hosts.second.fail("--fleet", slice_4)
    alone = Line.__new__(Line)
    alone.path, alone._options = hosts.second.path, OPTIONS
    assert "it is in fleet 'test', and stays so over a takeover" in alone.fail()
    with clients(hosts):
        pass  # both serve, and see each other


@pytest.mark.torture
def test_nothing_fails_and_no_copy_goes_in_takeovers_under_load() -> None:
    """`make takeovers FLEET=1` has a thousand of them."""
    command = [sys.executable, "-m", "benchmarks.takeovers", "20", "--fleet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed: 0; events lost: 0; repeated: 0" in done.stdout
