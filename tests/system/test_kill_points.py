"""A client that ends at any system call of any operation leaves nothing at its host, within a second.

`make kills` tries each place and prints how many there were, and how long the slowest release took.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import operations
import shmclient
import stepping
from native_support import ROOT, STRICT, WAYS
from operations import HEARD, SIZE, is_whole
from stepping import Stepped
from support import WatchedHost, wait_until, watched_host

FEW, MANY = 2, 150  # places in an operation
LONG = {"snapshot", "read_to_write"}  # of which what a host has is that of others
SHORT = [name for name in operations.NAMES if "trio" not in name and name not in LONG]
LIVE = ("links", "clients", "leases", "creating", "listeners", "arena links", "ledgers", "closing")
ENDS = ["killed", "killed with a forked child", "cut off", "cut off in a frame", "stopped, then killed"]
RELEASE_S = 1.0


@dataclasses.dataclass
class Scene:
    """A host, a bystander with a value and an arena, and what is counted while nobody else is there."""

    host: WatchedHost
    shm: shmclient.Client
    camera: shmclient.Arena
    before: dict[str, Any] = dataclasses.field(default_factory=dict)
    took_s: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    def serve_bystander(self) -> None:
        """A bystander is served: what a client that stands still holds is all that it keeps."""
        self.camera["front"] = np.full(1000, 7, "u1")
        assert is_whole(self.shm.get(HEARD))
        self.shm.put("mine", b"m" * 100).close()
        self.shm.unlink("mine")

    def wait_for_release(self, what: str) -> None:
        """Wait until nothing is counted for a client that has ended, and note how long that took."""
        began = time.monotonic()
        wait_until(self._is_released, shown=lambda: (what, self.before, self.host.counts()))
        took_s = time.monotonic() - began
        self.took_s.append((took_s, what))
        assert took_s < RELEASE_S, what

    def _is_released(self) -> bool:
        now = self.host.counts()
        return all(now[key] == self.before[key] for key in LIVE) and "spare" not in now["tallies"]

    def check_what_is_left(self) -> None:
        """What was published is whole; without it, all is as before."""
        for info in self.shm.list():
            if info.name in ("new", "own"):
                with shmclient.connect(self.host.socket_path) as other:
                    check_value(other, info)
                self.shm.unlink(info.name)
        assert {info.name for info in self.shm.list()} == {HEARD, "camera"}
        wait_until(self._is_back, shown=lambda: (self.before, self.host.counts()))

    def _is_back(self) -> bool:
        self.camera["front"] = np.full(1000, 7, "u1")  # the owner hears of ledgers as it puts
        return self.host.is_back_at(self.before)


def check_value(shm: shmclient.Client, info: shmclient.RegionInfo) -> None:
    """Check that each byte of a value is one that its publisher wrote."""
    try:
        view = shm.open_arena(info.name)
    except shmclient.ShmError:
        with shm.open(info.name) as region:
            assert is_whole(region.data) or region.header.root
        return
    for name in list(view):
        assert is_whole(view[name])


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    path = str(tmp_path_factory.mktemp("kills") / "host.sock")
    with watched_host(path) as host, shmclient.connect(path) as shm:
        shm.put(HEARD, b"h" * 1000, mode=0o666).close()
        with shm.arena("camera", SIZE) as camera:
            scene = Scene(host, shm, camera)
            for _ in range(2):
                scene.serve_bystander()
            wait_until(lambda: host.counts()["leases"] == 1)  # that of the arena's owner
            scene.before = host.counts()
            yield scene
        took_s = sorted(scene.took_s)
        p99_s, (slowest_s, slowest) = took_s[len(took_s) * 99 // 100][0], took_s[-1]
        print(f"\n{len(took_s)} places; release: p99 {p99_s * 1e3:.1f} ms, slowest {slowest_s * 1e3:.1f} ms")
        print(slowest)


def end(stepped: Stepped, how: str, scene: Scene) -> None:
    """End a client that stands still in one of the ways of ENDS."""
    if how == "killed with a forked child":
        stepped.fork()
    if how == "stopped, then killed":
        scene.serve_bystander()
    if not how.startswith("cut off"):
        stepped.kill()
        return
    with stepped.sockets() as sockets:
        for sock in sockets:
            if how == "cut off in a frame":
                with contextlib.suppress(OSError):
                    sock.send(b"\xff\0\0", socket.MSG_DONTWAIT)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def try_places(scene: Scene, run: Callable[[], Stepped], name: str, how: str, limit: int) -> None:
    """End a client at so many places of an operation, spread over all of it."""
    with run() as whole:
        whole.advance(2000)
        count = whole.steps
    scene.wait_for_release(f"{name} to its end")
    scene.check_what_is_left()
    stride = max(1, count // limit)
    first = random.Random(f"{name} {how}").randrange(stride) if stride > 1 else 0
    for point in range(first, count, stride):
        with run() as stepped:
            if stepped.advance(point + 1):
                end(stepped, how, scene)
            scene.wait_for_release(f"{name}, {how} at system call {point}")
        scene.check_what_is_left()


def usable(how: str) -> None:
    if how == "killed with a forked child" and not stepping.can_fork:
        pytest.skip("the registers are those of x86-64")


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("name", SHORT)
def test_client_that_ends_anywhere_leaves_nothing(name: str, how: str, scene: Scene) -> None:
    usable(how)
    child = operations.child(name, scene.host.socket_path)
    try_places(scene, lambda: Stepped(child), name, how, FEW)


@pytest.mark.torture
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("name", operations.NAMES)
def test_client_that_ends_at_each_place_leaves_nothing(name: str, how: str, scene: Scene) -> None:
    usable(how)
    child = operations.child(name, scene.host.socket_path)
    try_places(scene, lambda: Stepped(child), name, how, MANY)


# --- programs in C, which `shmclient exec` starts


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    for name in ("producer", "consumer"):
        source = ROOT / "examples" / f"{name}.c"
        subprocess.run([*WAYS["c11"], *STRICT, source, "-o", folder / name], check=True)
    return folder


def started(scene: Scene, *arguments: str) -> Callable[[], Stepped]:
    """Return what starts a program, stepped from its first instruction."""
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", scene.host.socket_path, *arguments]

    def run() -> None:
        from shmclient._commands.cli import cli

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        cli.main(command[3:], standalone_mode=False)

    return lambda: Stepped(run, after_exec=True)


def owner(scene: Scene, programs: Path) -> Callable[[], Stepped]:
    return started(scene, "--arena", "new=4MiB", "--", str(programs / "producer"), "new", "3")


def reader(scene: Scene, programs: Path) -> Callable[[], Stepped]:
    return started(scene, "--region", "camera", "--", str(programs / "consumer"), "camera", "front", "1")


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("start", [owner, reader])
def test_program_that_ends_anywhere_leaves_nothing(
    start: Callable[[Scene, Path], Callable[[], Stepped]], how: str, scene: Scene, programs: Path
) -> None:
    usable(how)
    try_places(scene, start(scene, programs), f"C {start.__name__}", how, FEW)


@pytest.mark.torture
@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("start", [owner, reader])
def test_program_that_ends_at_each_place_leaves_nothing(
    start: Callable[[Scene, Path], Callable[[], Stepped]], how: str, scene: Scene, programs: Path
) -> None:
    usable(how)
    try_places(scene, start(scene, programs), f"C {start.__name__}", how, MANY)


# --- a child that goes, and a parent that stays


@pytest.mark.skipif(not stepping.can_fork, reason="the registers are those of x86-64")
@pytest.mark.parametrize("name", operations.SYNC)
def test_forked_child_that_ends_takes_nothing_from_its_parent(name: str, scene: Scene) -> None:
    child = operations.child(name, scene.host.socket_path)
    for point in (2, 9, 15):
        with Stepped(child) as stepped:
            stepped.advance(point)
            counted = {key: scene.host.counts()[key] for key in LIVE}
            stepped.fork()
            stepped.kill_children()
            scene.serve_bystander()
            assert {key: scene.host.counts()[key] for key in LIVE} == counted
            assert stepped.finish() == 0
        scene.wait_for_release(f"{name} to its end")
        scene.check_what_is_left()
