"""The C reader of dicts, compiled as strictly as its users may, on regions that Python has put."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import shmclient
from native_support import ROOT, STRICT, WAYS

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module", params=WAYS)
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "reader"
    subprocess.run(
        [*WAYS[request.param], *STRICT, ROOT / "examples" / "dict_reader.c", "-o", path], check=True
    )
    return path


def run(program: Path, region: shmclient.Region, *keys: str) -> tuple[int, list[str], str]:
    descriptor = region.fileno()
    result = subprocess.run(
        [program, "d", *keys],
        pass_fds=[descriptor],
        env=os.environ | {"SHM_REGIONS": f"{descriptor} d"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    return result.returncode, result.stdout.splitlines(), result.stderr


def test_reader_finds_what_was_put(program: Path, shm: shmclient.Client) -> None:
    value: dict[str, Any] = {"a": np.array([1, 2], "<u2"), "": b"xyz", "ü/\U0001f600": b"", "d": np.zeros(0)}
    region = shm.put("d", value)
    assert run(program, region) == (0, ["a 4", " 3", "ü/\U0001f600 0", "d 0"], "")
    result = run(program, region, "a", "", "ü/\U0001f600", "none")
    assert result[:2] == (1, ["a: 1 0 2 0", ": 120 121 122", "ü/\U0001f600:"])
    assert "none: No such file" in result[2]


def test_reader_finds_each_of_many(program: Path, shm: shmclient.Client) -> None:
    region = shm.put("d", {f"key/{number}": bytes([number % 251]) for number in range(20_000)})
    assert run(program, region)[1] == [f"key/{number} 1" for number in range(20_000)]
    keys = [f"key/{number}" for number in range(0, 20_000, 37)]
    assert run(program, region, *keys)[1] == [f"{key}: {int(key[4:]) % 251}" for key in keys]


def test_reader_finds_what_a_builder_has_made(program: Path, shm: shmclient.Client) -> None:
    with shm.create("d", 1001) as builder:
        builder.array(3, "u1", name="first")[:] = 7
        builder.array(2, ">u2", name="second")[:] = 1
    assert run(program, shm.open("d"), "second", "first")[1] == ["second: 0 1 0 1", "first: 7 7 7"]


@pytest.mark.parametrize("value", [b"abc", np.zeros(3)])
def test_reader_says_that_a_region_is_not_a_dict(program: Path, value: Any, shm: shmclient.Client) -> None:
    code, output, error = run(program, shm.put("d", value), "a")
    assert (code, output) == (3, [])
    assert "cannot read d" in error


@pytest.mark.parametrize(
    "index", [4096, 3, 0, (1 << 64) - 8, 8], ids=["behind the end", "unaligned", "data", "overflow", "zeros"]
)
def test_reader_refuses_an_index_that_is_elsewhere(program: Path, index: int, shm: shmclient.Client) -> None:
    """The builder's own metadata lies behind its data: this overwrites it, as a hostile creator would."""
    metadata = b"\x82\xa6format\xa4dict\xa5index\xcf" + index.to_bytes(8, "big")
    assert msgpack.unpackb(metadata) == {"format": "dict", "index": index}
    region = hostile(shm, metadata)
    code, output, error = run(program, region, "a")
    assert (code, output) == (3, [])
    assert "Bad message" in error
    with pytest.raises(shmclient.BadRegion):
        region.value()


def hostile(shm: shmclient.Client, metadata: bytes) -> shmclient.Region:
    """Return a region of 64 bytes with this metadata, whose creator wrote it after it was published."""
    with shm.create("d", 64, seal="writer") as builder:
        writer = mmap.mmap(builder.fileno(), builder.capacity)
        builder.array(64, "u1", name="a")[:] = 1
    region = shm.open("d")
    start = region.header.metadata - region.header.base
    writer[start : start + len(metadata)] = metadata
    return region
