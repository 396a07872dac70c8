"""The readers in C++, Rust and Go: built by their own tools, and run through `shmclient exec`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
import shmhost
from native_support import ROOT, STRICT
from shmhost.commands.demo import index as word_index

EXAMPLES = ROOT / "examples"
CPP = ["c++", "-std=c++20", "-O2", *STRICT, f"-I{EXAMPLES}"]
INCLUDE = ROOT / "shmprotocol" / "abi"
GO = os.environ | {"GOPROXY": "off", "GOFLAGS": "-mod=mod"}
TOOLS = {"cpp": "c++", "rust": "cargo", "go": "go"}


def build(language: str, folder: Path) -> Path:
    """Build the reader of a language in a copy of its folder; return the program."""
    tool = TOOLS[language]
    if shutil.which(tool) is None:
        pytest.skip(f"NOT TESTED: the reader in {language}, because there is no `{tool}` here")
    source = shutil.copytree(EXAMPLES / language, folder / language)
    if language == "cpp":
        subprocess.run([*CPP, source / "reader.cpp", "-o", source / "reader"], check=True)
        return source / "reader"
    if language == "rust":
        strict = {**os.environ, "RUSTFLAGS": "-D warnings", "CARGO_TARGET_DIR": str(folder / "target")}
        subprocess.run(["cargo", "build", "-q", "--offline", "--release"], cwd=source, env=strict, check=True)
        return folder / "target" / "release" / "reader"
    offline = GO | {"GOCACHE": str(folder / "cache")}
    for command in (["go", "vet", "."], ["go", "build", "-o", "reader", "."]):
        subprocess.run(command, cwd=source, env=offline, check=True)
    return source / "reader"


@pytest.fixture(scope="module", params=TOOLS)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("readers"))


@pytest.fixture(scope="module")
def socket_path() -> Iterator[str]:
    """A host with two word indexes, and with two regions that are none."""
    folder, files = word_index.standard_library()
    *_, library = word_index.read_words(folder, files[:: max(len(files) // 60, 1)])
    text = word_index.Words()
    text.add("text.py", b"one two\nthree\ntwo one one\n")
    ffi = word_index.make_ffi()
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        for name, words in {"words": text, "library": library}.items():
            with shm.create(name, words.size()) as builder:
                word_index.build(builder, ffi, words)
        shm.put("data", b"no index").close()
        with shm.create("small", 4096) as builder:
            builder.set_root(builder.new(ffi, "struct posting *"))
        yield host.socket_path


def run(program: Path, socket: str, region: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket, "--region", region, "--"]
    return subprocess.run(
        [*command, program, region, *words],
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )


def test_reader_finds_the_same_places_as_python(reader: Path, socket_path: str) -> None:
    ffi = word_index.make_ffi()
    with shmclient.connect(socket_path) as shm, shm.open("library") as region:
        root = region.root(ffi, "struct word_index *")
        words = [
            word for word in (b"import", b"class", b"yield", b"self") if word_index.find(ffi, root, word)
        ]
        expected = [f"library at {region.address:#x}: {root.entry_count} words in {root.file_count} files"]
        for word in words:
            hits = list(word_index.places(ffi, root, word))
            expected.append(f"{word.decode()}: {len(hits)} places")
            expected += [f"  {name}:{line}" for name, line in hits]
    result = run(reader, socket_path, "library", *map(bytes.decode, words))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == expected
    assert len(expected) > 100


def test_reader_says_which_word_does_not_occur(reader: Path, socket_path: str) -> None:
    result = run(reader, socket_path, "words", "four", "two")
    assert (result.returncode, result.stderr) == (1, "reader: four does not occur\n")
    assert result.stdout.splitlines()[1:] == ["two: 2 places", "  text.py:1", "  text.py:3"]


@pytest.mark.parametrize("region", ["data", "small"])
def test_reader_refuses_a_region_that_is_not_an_index(reader: Path, socket_path: str, region: str) -> None:
    result = run(reader, socket_path, region, "two")
    assert (result.returncode, result.stdout) == (3, "")
    assert "holds no word index" in result.stderr


def test_reader_refuses_memory_that_is_not_a_sealed_region(reader: Path) -> None:
    """Without seals a writer could shrink it under the reader, which would die of SIGBUS."""
    fd = os.memfd_create("plain", os.MFD_ALLOW_SEALING)
    os.truncate(fd, 8192)
    environment = {**os.environ, "SHM_REGIONS": f"{fd} plain\n"}
    result = subprocess.run(
        [reader, "plain", "two"], pass_fds=[fd], env=environment, capture_output=True, text=True, timeout=60
    )
    os.close(fd)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("reader: cannot map plain: ")


@pytest.fixture(scope="module", params=TOOLS)
def arena_reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader of arenas in a language, which compiles the C header."""
    folder = tmp_path_factory.mktemp("arenas")
    if shutil.which(TOOLS[request.param]) is None or shutil.which("cc") is None:
        pytest.skip(f"NOT TESTED: arenas in {request.param}: no `{TOOLS[request.param]}` or no `cc` here")
    source = shutil.copytree(EXAMPLES / request.param, folder / request.param)
    program = folder / "target" / "release" / "arena_reader"
    if request.param == "cpp":
        program = folder / "arena_reader"
        subprocess.run([*CPP, source / "arena_reader.cpp", "-o", program], check=True)
    elif request.param == "rust":
        environ = os.environ | {"SHM_INCLUDE": str(INCLUDE), "RUSTFLAGS": "-D warnings"}
        environ["CARGO_TARGET_DIR"] = str(folder / "target")
        command = ["cargo", "build", "-q", "--offline", "--release"]
        subprocess.run(command, cwd=source / "arena", env=environ, check=True)
    else:
        program = folder / "arena_reader"
        environ = GO | {"GOCACHE": str(folder / "cache"), "CGO_ENABLED": "1", "CGO_CFLAGS": f"-I{INCLUDE}"}
        for command in (["go", "vet", "./arena"], ["go", "build", "-o", str(program), "./arena"]):
            subprocess.run(command, cwd=source, env=environ, check=True)
    return program


def started(program: Path, shm: shmclient.Client, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", shm.socket_path, "--region", "camera"]
    command += ["--", str(program), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_arena_reader_holds_the_values_of_an_owner_in_python(
    arena_reader: Path, shm: shmclient.Client
) -> None:
    with shm.arena("camera", 1 << 20) as camera:
        camera["front"] = bytes([1, 2, 3] * 100)
        child = started(arena_reader, shm, "camera", "front", "3")
        assert child.stdout is not None
        assert child.stdout.readline().split()[1:] == ["300", "600"]
        camera["front"] = bytes([5])
        assert child.stdout.readline().split()[1:] == ["1", "5"]
        camera["front"] = b""
        output, error = child.communicate(timeout=60)
        assert (output.split()[1:], error, child.returncode) == (["0", "0"], "", 0)


def test_arena_reader_lets_go_of_each_value(arena_reader: Path, shm: shmclient.Client) -> None:
    """Otherwise the owner would run out of memory: the arena has room for few values."""
    with shm.arena("camera", 1 << 20, names=16) as camera:
        camera["front"] = bytes(100_000)
        child = started(arena_reader, shm, "camera", "front", "50")
        assert child.stdout is not None
        for number in range(50):
            assert child.stdout.readline().split()[1:] == ["100000", str(number)]
            camera["front"] = bytes(99_999) + bytes([number + 1])
        assert child.communicate(timeout=60) == ("", "")
        assert child.returncode == 0


def test_arena_reader_says_that_there_is_no_such_arena(arena_reader: Path, shm: shmclient.Client) -> None:
    with shm.arena("camera", 1 << 20):
        child = started(arena_reader, shm, "other", "front", "1")
        output, error = child.communicate(timeout=60)
    assert (output, child.returncode) == ("", 3)
    assert error.startswith("arena_reader: ")
