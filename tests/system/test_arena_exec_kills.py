"""Programs in C that own and read arenas, while their host is killed and another one takes its place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmclient
from native_support import ROOT, STRICT, WAYS
from support import Machine, wait_until

EXAMPLES = ROOT / "examples"
WAY = next(iter(WAYS))  # that both languages work is tested elsewhere


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("arenas")
    built = {name: folder / name for name in ("producer", "consumer")}
    for name, path in built.items():
        subprocess.run([*WAYS[WAY], *STRICT, EXAMPLES / f"{name}.c", "-o", path], check=True)
    return built


def start(socket: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def producer(machine: Machine, programs: dict[str, Path]) -> Iterator[subprocess.Popen[str]]:
    child = start(machine.path, "--arena", "camera=16M", "--", programs["producer"], "camera")
    yield child
    child.kill()
    child.communicate()


def is_whole(frame: np.ndarray) -> bool:
    pattern = np.add.outer(np.arange(480), np.arange(640)) + int(frame[0, 0])
    return bool((frame == pattern.astype("u1")).all())


def test_owner_in_c_writes_on_and_lets_new_readers_in_when_it_has_ended(
    machine: Machine, producer: subprocess.Popen[str]
) -> None:
    with shmclient.connect(machine.path) as old:
        held = old.get("camera/front", wait=30)
        copy = held.copy()
        for _ in range(2):
            machine.restart()
            first = old.stat("camera").generation
            shown = int(old.get("camera/front")[0, 0])
            wait_until(lambda shown=shown: int(old.get("camera/front")[0, 0]) != shown)  # it writes on
            frames = [old.get("camera/front") for _ in range(20)]
            assert all(map(is_whole, frames))
            assert (held == copy).all()
            with shmclient.connect(machine.path) as new:
                assert new.stat("camera").generation == first
                with pytest.raises(shmclient.RegionNotFound):
                    new.get("camera/front")
        with shmclient.connect(machine.path) as new:
            producer.kill()
            producer.wait()
            last = new.get("camera/front", wait=30)
            assert is_whole(last)
            assert (last == old.get("camera/front")).all()
            assert (held == copy).all()
            new.unlink("camera")
            with new.arena("camera", size=1 << 20) as again:
                again["front"] = b"1"
                assert bytes(old.get("camera/front")) == b"1"


def test_reader_in_c_reads_on_and_holds_what_it_holds(machine: Machine, programs: dict[str, Path]) -> None:
    with shmclient.connect(machine.path) as shm, shm.arena("camera", size=1 << 20) as arena:
        arena["front"] = np.full(60_000, 1, "u1")
        reader = start(machine.path, "--region", "camera", "--", programs["consumer"], "camera", "front", 90)
        assert reader.stdout is not None
        lines = [reader.stdout.readline().split()]
        for number in range(2, 91):
            if number % 30 == 0:
                machine.restart()
                with shmclient.connect(machine.path) as new:
                    value = new.get("camera/front", wait=30)
                    assert (value == number - 1).all()
            generation = arena.put("front", np.full(60_000, number, "u1"))
            lines.append(reader.stdout.readline().split())
            assert lines[-1][:3] == [str(generation), "60000", str(60_000 * number)]
        assert reader.communicate(timeout=30)[1] == ""
        assert reader.returncode == 0
        with shmclient.connect(machine.path) as other:
            wait_until(lambda: other.stat("camera").leases <= 3)
        for number in range(100):  # the ledger of the program has gone with it: there is room
            arena["front"] = np.full(60_000, number, "u1")
