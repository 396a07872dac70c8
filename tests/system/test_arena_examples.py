"""The native examples of arenas, by `shmclient exec`: an owner in C and readers in Python, and vice versa."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmclient
from native_support import ROOT, STRICT, WAYS
from support import WatchedHost, wait_until

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Compile both programs in each way."""
    folder = tmp_path_factory.mktemp("arenas")
    built = {}
    for way, compiler in WAYS.items():
        for name in ("producer", "consumer"):
            path = built[name, way] = folder / f"{name}-{way}"
            subprocess.run([*compiler, *STRICT, EXAMPLES / f"{name}.c", "-o", path], check=True)
    return built


def start(socket: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(params=WAYS)
def producer(
    request: pytest.FixtureRequest, host: WatchedHost, programs: dict[tuple[str, str], Path]
) -> Iterator[subprocess.Popen[str]]:
    program = programs["producer", request.param]
    child = start(host.socket_path, "--arena", "camera=16M", "--", program, "camera")
    yield child
    child.kill()
    child.communicate()


def test_python_reads_what_an_owner_in_c_writes(
    producer: subprocess.Popen[str], host: WatchedHost, shm: shmclient.Client
) -> None:
    first = shm.get("camera/front", wait=30)
    assert (first.shape, first.dtype) == ((480, 640), np.uint8)
    frames = [frame for frame, _ in zip(shm.follow("camera/front"), range(10), strict=False)]
    expected = np.add.outer(np.arange(480), np.arange(640))
    for frame in frames:
        assert ((frame - expected).astype("u1") == frame[0, 0]).all()
    assert len({int(frame[0, 0]) for frame in frames}) == 10
    producer.kill()
    producer.wait()
    assert shm.get("camera/front").shape == (480, 640)  # it was made to be kept


def test_reader_in_c_reads_what_an_owner_in_python_writes(
    host: WatchedHost, shm: shmclient.Client, programs: dict[tuple[str, str], Path]
) -> None:
    with shm.arena("camera", 16 << 20) as arena:
        arena["front"] = np.full(1000, 1, "u1")
        for way in WAYS:
            child = start(
                host.socket_path, "--region", "camera", "--", programs["consumer", way], "camera", "front", 5
            )
            assert child.stdout is not None
            lines = [child.stdout.readline().split()]
            for number in range(2, 6):
                generation = arena.put("front", np.full(1000, number, "u1"))
                lines.append(child.stdout.readline().split())
                assert lines[-1][:3] == [str(generation), "1000", str(1000 * number)]
            assert child.communicate(timeout=30)[1] == ""
            assert child.returncode == 0


def test_names_in_an_arena_are_passed_on_with_the_arena(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.arena("camera", 16 << 20) as arena:
        arena["front"] = b"1"
        child = start(host.socket_path, "--region", "camera/front", "--", "true")
        _, error = child.communicate(timeout=30)
        assert (child.returncode, "pass that on" in error) == (1, True)


@pytest.mark.parametrize("arguments", [["--arena", "camera"], ["--arena", "camera=many"], []])
def test_wrong_usage_is_said(host: WatchedHost, arguments: list[str]) -> None:
    child = start(host.socket_path, *arguments, "--", "true")
    assert (child.communicate(timeout=30)[0], child.returncode) == ("", 2)


def test_arena_whose_program_never_publishes_it_goes(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    child = start(host.socket_path, "--arena", "camera=16M", "--", "true")
    assert (child.communicate(timeout=30), child.returncode) == (("", ""), 0)
    wait_until(lambda: host.is_back_at(before))
    assert not shm.exists("camera")
