"""The C reader: compiled as strictly as its users may, and run for real through `shmclient exec`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
import shmhost
from native_support import ROOT, STRICT, WAYS
from shmhost.commands.demo import index as word_index
from support import wait_until

TEXT = b"one two\nthree\ntwo one one\n"

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.mark.parametrize(
    ("example", "letters"), [("fill_buffers", "X"), ("read_into_region", "XY")], ids=lambda value: value
)
def test_example_prints_what_the_go_package_does(example: str, letters: str) -> None:
    command = [sys.executable, "-W", "error", ROOT.parent / "examples" / f"{example}.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    lines = [letter * size for letter in letters for size in (2, 5, 8, 11)]
    assert (result.returncode, result.stderr, result.stdout.split()) == (0, "", lines)


def test_example_of_an_arena_sees_whole_frames() -> None:
    command = [sys.executable, "-W", "error", ROOT.parent / "examples" / "arena_camera.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "500 frames are whole, and each is newer than the one before\n"


def test_example_of_shared_memory_is_the_one_of_its_page(tmp_path: Path) -> None:
    path = ROOT.parent / "examples" / "shared_memory_pool.py"
    page = (ROOT.parent / "docs" / "shared_memory.md").read_text("utf-8")
    assert f"```python\n{path.read_text('utf-8')}```\n\n```\n1,500,000\n```" in page
    environ = {name: value for name, value in os.environ.items() if name != "SHMHOST_SOCKET"}
    result = subprocess.run(
        [sys.executable, "-W", "error", path],
        capture_output=True,
        text=True,
        timeout=55,
        env=environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
    )
    stop_host(tmp_path / "shmhost" / "shared_memory.sock")
    assert (result.returncode, result.stderr, result.stdout) == (0, "", "1,500,000\n")


def stop_host(path: Path) -> None:
    """End the host of a socket, and wait for that."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        pid = struct.unpack("iii", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not path.exists())


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("readers")
    for way, compiler in WAYS.items():
        command = [*compiler, *STRICT, ROOT / "examples" / "reader.c", "-o", folder / way]
        subprocess.run(command, check=True)
    return {way: folder / way for way in WAYS}


@pytest.fixture(scope="module")
def library() -> word_index.Words:
    """The words of some files of the standard library."""
    folder, files = word_index.standard_library()
    *_, words = word_index.read_words(folder, files[:: max(len(files) // 60, 1)])
    return words


@pytest.fixture(scope="module")
def socket_path(library: word_index.Words) -> Iterator[str]:
    text = word_index.Words()
    text.add("text.py", TEXT)
    ffi = word_index.make_ffi()
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        for name, words in {"words": text, "library": library, "empty": word_index.Words()}.items():
            with shm.create(name, words.size()) as builder:
                word_index.build(builder, ffi, words)
        shm.put("data", b"no index").close()
        with shm.create("small", 4096) as builder:  # its root is smaller than that of an index
            builder.set_root(builder.new(ffi, "struct posting *"))
        yield host.socket_path


def run(
    program: Path, *arguments: str, socket: str, region: str = "words"
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket, "--region", region, "--"]
    return subprocess.run(
        [*command, program, *arguments], capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL
    )


def places(output: str) -> list[str]:
    return re.findall(r"^ +(\S+:\d+)$", output, re.MULTILINE)


@pytest.mark.parametrize("way", WAYS)
def test_reader_prints_the_places_of_words(way: str, programs: dict[str, Path], socket_path: str) -> None:
    result = run(programs[way], "words", "two", "three", socket=socket_path)
    assert (result.returncode, result.stderr) == (0, "")
    with shmclient.connect(socket_path) as shm:
        address = shm.stat("words").address
    assert result.stdout.splitlines() == [
        f"words at {address:#x}: 3 words in 1 files",
        "two: 2 places",
        "  text.py:1",
        "  text.py:3",
        "three: 1 places",
        "  text.py:2",
    ]


@pytest.mark.parametrize("way", WAYS)
def test_reader_finds_the_same_places_as_python(
    way: str, programs: dict[str, Path], socket_path: str, library: word_index.Words
) -> None:
    words = sorted(library.postings)[:: max(len(library.postings) // 50, 1)]
    ffi = word_index.make_ffi()
    expected = []
    with shmclient.connect(socket_path) as shm:
        root = shm.open("library").root(ffi, "struct word_index *")
        for word in words:
            hits = list(word_index.places(ffi, root, word))
            expected.append(f"{word.decode()}: {len(hits)} places")
            expected += [f"  {name}:{line}" for name, line in hits]
    result = run(programs[way], "library", *map(bytes.decode, words), socket=socket_path, region="library")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1:] == expected
    assert len(expected) > 2 * len(words) >= 100


@pytest.mark.parametrize("way", WAYS)
def test_reader_finds_every_word_at_the_address_of_the_host(
    way: str, programs: dict[str, Path], socket_path: str
) -> None:
    report = json.loads(run(programs[way], "words", "--bench", "0.05", socket=socket_path).stdout)
    with shmclient.connect(socket_path) as shm:
        assert report["address"] == shm.stat("words").address
    assert report["missed"] == 0
    assert report["lookups_per_s"] > 0


@pytest.mark.parametrize("way", ["c11", "c++17"])
def test_reader_is_ended_by_the_kernel_when_it_writes(
    way: str, programs: dict[str, Path], socket_path: str
) -> None:
    result = run(programs[way], "words", "--write", socket=socket_path)
    assert result.returncode == -signal.SIGSEGV
    with shmclient.connect(socket_path) as shm:  # it came as far as having the region
        assert json.loads(result.stdout)["address"] == shm.stat("words").address


@pytest.mark.parametrize("seconds", ["0", "0.01"])
def test_reader_reports_a_rate_when_there_is_no_time_or_no_word(
    seconds: str, programs: dict[str, Path], socket_path: str
) -> None:
    result = run(programs["sanitized"], "empty", "--bench", seconds, socket=socket_path, region="empty")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["lookups_per_s"] == 0


def test_reader_ends_with_1_when_a_word_is_missing(programs: dict[str, Path], socket_path: str) -> None:
    result = run(programs["c11"], "words", "nine", "two", socket=socket_path)
    assert result.returncode == 1
    assert "nine does not occur" in result.stderr
    assert places(result.stdout) == ["text.py:1", "text.py:3"]


def test_reader_says_what_is_missing_when_it_did_not_inherit_the_region(
    programs: dict[str, Path], socket_path: str
) -> None:
    result = run(programs["c11"], "other", "two", socket=socket_path)
    assert result.returncode == 3
    assert "shmclient exec" in result.stderr


@pytest.mark.parametrize("name", ["data", "small"])
def test_reader_refuses_a_region_that_is_no_index(
    name: str, programs: dict[str, Path], socket_path: str
) -> None:
    result = run(programs["c11"], name, "two", socket=socket_path, region=name)
    assert result.returncode == 3
    assert "no word index" in result.stderr


def test_reader_prints_its_usage_when_it_has_no_word(programs: dict[str, Path], socket_path: str) -> None:
    result = run(programs["c11"], "words", socket=socket_path)
    assert result.returncode == 2
    assert "usage" in result.stderr
