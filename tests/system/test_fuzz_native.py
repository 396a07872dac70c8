"""What reads the bytes of others in C, with sanitizers, on millions of inputs: see tests/fuzz.

Each run is the same: all of it follows from a seed. `make fuzz` tries a hundred million; with FUZZ_KEEP=1
it adds those that reached more of the code to the corpus, one a line in hexadecimal.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from arena_programs import changed_headers
from header_support import BASE, GOOD
from native_support import ROOT
from shmclient import _codecs
from shmprotocol.abi.header import FLAG_SEAL_WRITER, KIND_BOARD
from shmprotocol.native.builtins import dict_make
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack

FOLDER = Path(__file__).parents[1] / "fuzz"
FLAGS = ["-std=gnu11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COVERAGE = ["-fsanitize-coverage=trace-pc"]
IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
KEPT_MAX, KEPT_SIZE = 40, 2048  # inputs of a target, and bytes of each
# Inputs of a long run, a hundred million in all; a short one takes a second.
LONG = {
    "header": 20_000_000,
    "board": 10_000_000,
    "dict": 20_000_000,
    "request": 20_000_000,
    "reply": 20_000_000,
    "inherit": 10_000_000,
    "arrow": 10_000_000,
}
SHORT = 100_000
SIZE = 12288
HEADER = GOOD._replace(
    size=SIZE - 100,
    capacity=SIZE,
    data_size=4096,
    root=BASE + 4104,
    window_size=1 << 38,
    metadata=BASE + 8192,
    metadata_size=100,
    name="fuzz",
)
GRANT = m.Grant(1, 2, 3, "name", BASE, 100, 8192, 1, 5, 6)


def header() -> list[bytes]:
    return [
        HEADER.pack()[:416],
        HEADER._replace(metadata=0, metadata_size=0, root=0, root_size=0).pack()[:416],
    ]


def board() -> list[bytes]:
    flags = {"flags": FLAG_SEAL_WRITER, "data": BASE + 4096, "data_size": 4096}
    packed = HEADER._replace(kind=KIND_BOARD, size=SIZE, root=BASE + 4096, root_size=4096, **flags).pack()
    return [packed + struct.pack("<Q", lines) + bytes(120) for lines in (1, 62)]


def dicts() -> list[bytes]:
    seed, lead = 0xCBF29CE484222325, bytes(range(256))
    indexes = []
    for keys in ([], ["a"], ["", "a", "b", "key", "a longer key"]):
        count = len(keys)
        index = dict_make(keys, [8] * count, [8] * count, [0] * count, [b"\x81\xa6format\xa5bytes"], 0, seed)
        assert index is not None
        indexes.append(lead + index)
    return indexes


def requests() -> list[bytes]:
    release = pack(m.Release(0, (1, 200, 70_000)))
    opened = pack(m.Open(5, ("a", "name/of/it"), (), False))
    put = pack(m.Put(6, "name", 0o600, True, 10, 5, 5, b"0123456789"))
    assign = pack(m.Assign(7, 3, "name", 0o600, True, 100, 100, 50, 10, (100, 70_000)))
    return [release, opened, put, assign, release + opened, release + release + put, release + assign]


def replies() -> list[bytes]:
    many = (GRANT, GRANT._replace(lease=2**40, name="x" * 40))
    spares = (m.Spare(1, BASE, 8192), m.Spare(2, BASE, 8192))
    messages = (
        m.Opened(5, (GRANT,), (0, 0)),
        m.Opened(5, many, (0, 0)),
        m.Opened(5, (GRANT._replace(name="x", address=1),) * 30, (0, 0)),
        m.Published(6, GRANT, ()),
        m.Published(6, GRANT, spares),
    )
    return [pack(message) for message in messages]


def inherited() -> list[bytes]:
    lines = [
        "3 4 5 1 100 65536 65536 93458488360960 -1 -1 camera",
        "3 -1 5 1 100 65536 65536 93458488360960 6 7 camera",
    ]
    return [line.encode() for line in [*lines, "\n".join(lines), "1 2 other\n" + lines[0]]]


def arrows() -> list[bytes]:
    pa = pytest.importorskip("pyarrow")
    values = [
        pa.table({"a": [1, None], "s": ["x", "yz"]}),
        pa.array([[1], None, [2, 3]]),
        pa.array(["a text that is longer than a view", None], pa.string_view()),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays([3, 7], ["a", None]),
        pa.array([[True, None]], pa.list_(pa.bool_(), 2)),
    ]
    return [packed_arrow(value, 0x100000) for value in values]


def packed_arrow(value: object, address: int) -> bytes:
    """Return Arrow data as a region at an address holds it."""
    encoded = _codecs.encode(value)
    content = bytearray(encoded.size)
    encoded.move(address)
    encoded.write(content)
    return bytes(content)


SEEDS = {
    "arrow": arrows,
    "header": header,
    "board": board,
    "dict": dicts,
    "request": requests,
    "reply": replies,
    "inherit": inherited,
}


def compile_targets(folder: Path, headers: Path, native: Path) -> Path:
    """Return the program, which takes a target, a seed and a number of inputs."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc, whose coverage this uses")
    includes = [f"-I{headers}", f"-I{native}"]
    for name, more in (("engine", []), ("targets", COVERAGE)):
        command = ["gcc", *FLAGS, *SANITIZERS, *more, *includes, "-c", FOLDER / f"{name}.c"]
        subprocess.run([*command, "-o", folder / f"{name}.o"], check=True)
    program = folder / "targets"
    subprocess.run(["gcc", *SANITIZERS, folder / "engine.o", folder / "targets.o", "-o", program], check=True)
    return program


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    package = ROOT / "shmprotocol"
    return compile_targets(tmp_path_factory.mktemp("fuzz"), package / "abi", package / "native")


def corpus(target: str) -> list[bytes]:
    path = FOLDER / "corpus" / f"{target}.hex"
    return [bytes.fromhex(line) for line in path.read_text("ascii").split()] if path.exists() else []


def fuzz(program: Path, target: str, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    inputs = [*SEEDS[target](), *corpus(target)]
    text = "".join(each.hex() + "\n" for each in inputs)
    command = [program, target, str(seed), str(count)]
    options = {
        "ASAN_OPTIONS": "quarantine_size_mb=4"
    }  # memory that is freed is not in question: it stays in cache
    return subprocess.run(
        command, env=os.environ | options, input=text, capture_output=True, text=True, check=False
    )


def keep(target: str, more: Iterable[bytes]) -> None:
    """Add inputs to the corpus: the shortest ones, as many as it may have."""
    inputs = {*corpus(target), *(each for each in more if len(each) <= KEPT_SIZE)}
    if not inputs:
        return
    chosen = sorted(inputs, key=lambda each: (len(each), each))[:KEPT_MAX]
    path = FOLDER / "corpus" / f"{target}.hex"
    path.write_text("".join(each.hex() + "\n" for each in sorted(chosen)), "ascii")


@pytest.mark.parametrize("target", LONG)
def test_input_of_any_kind_is_refused_or_right(target: str, program: Path) -> None:
    run = fuzz(program, target, 1, LONG[target] if IS_LONG else SHORT)
    assert run.returncode == 0, run.stderr
    figures = re.search(r"(\d+) inputs, (\d+) given, .* (\d+) taken", run.stderr)
    assert figures is not None
    print(f"{target}: {run.stderr}", end="", file=sys.stderr)
    assert int(figures[1]) > 0
    assert int(figures[3]) > 0, "some are right, so that what is behind the checks is reached"
    if os.environ.get("FUZZ_KEEP"):
        keep(target, [bytes.fromhex(line) for line in run.stdout.split()])


# A line of each target's code, and the same without a check.
UNCHECKED = {
    "arrow": ("shm_arrow_array.h", "(uint64_t)(count * width));", "(uint64_t)(count * 0));"),
    "header": (
        "shm_abi.h",
        "(uint64_t)(uintptr_t)address >= base && offset <= capacity && size <= capacity - offset",
        "(uint64_t)(uintptr_t)address >= base && offset + size <= capacity",
    ),
    "board": (
        "shm_board.h",
        "board->lines > (header->root_size - sizeof(*board)) / SHM_BOARD_LINE_SIZE",
        "0",
    ),
    "dict": ("shm_dict.h", "value_out->size > dict->data_size - offset", "0"),
    "request": ("shortcut.c", "(uint64_t)(frame->end - frame->at) < *size_out", "0"),
    "reply": ("shortcut.c", "if (frame->end - frame->at < size)", "if (0)"),
    "inherit": ("shm_arena_inherit.h", "if (*after != ' ')", "if (0)"),
}


@pytest.mark.torture
@pytest.mark.timeout(300)
@pytest.mark.parametrize("target", UNCHECKED)
def test_missing_check_is_found(target: str, tmp_path: Path) -> None:
    name, before, after = UNCHECKED[target]
    change = {name: [(before, after)]}
    headers = changed_headers(tmp_path, change if name.endswith(".h") else {})
    native = tmp_path / "native"
    shutil.copytree(
        ROOT / "shmprotocol" / "native", native, ignore=shutil.ignore_patterns("*.so", "_native.c")
    )
    if name.endswith(".c"):
        text = (native / name).read_text("utf-8")
        assert text.count(before) == 1
        (native / name).write_text(text.replace(before, after), "utf-8")
    run = fuzz(compile_targets(tmp_path, headers, native), target, 1, 400_000)
    assert run.returncode != 0
