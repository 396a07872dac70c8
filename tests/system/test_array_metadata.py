"""`shm_array_read` believes nothing: metadata of any bytes, under sanitizers."""

from __future__ import annotations

import errno
import random
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgpack
import pytest

from native_support import STRICT, WAYS

ARRAY = {"format": "ndarray", "dtype": "<f8", "shape": [3, 4], "order": "C", "offset": 64, "size": 96}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "metadata"
    source = Path(__file__).with_name("array_metadata.c")
    subprocess.run([*WAYS["sanitized"], *STRICT, source, "-o", path], check=True)
    return path


def read(program: Path, metadata: Sequence[bytes]) -> list[int]:
    """Return what each is read as: 0, or an error's number."""
    content = b"".join(struct.pack("<H", len(each)) + each for each in metadata)
    result = subprocess.run([program], input=content, capture_output=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, b"")
    return [-int(line) for line in result.stdout.split()]


GOOD = [
    {},
    {"class": "matrix", "note": [1, {"a": [None, True, -1, 1.5, b"bytes", "text" * 20]}, -(2**40)]},
    {"shape": [0, 2**63], "size": 0},
    {"shape": [], "size": 8, "offset": 4088},
    {"dtype": "<c32", "shape": [3]},
    {"dtype": "|b1", "shape": [96], "order": "F"},
]
BAD = [
    ({"offset": 4001}, errno.EBADMSG),
    ({"offset": 2**64 - 1}, errno.EBADMSG),
    ({"offset": -1}, errno.EBADMSG),
    ({"size": 97}, errno.EBADMSG),
    ({"shape": [3, 5]}, errno.EBADMSG),
    ({"shape": [2**61, 2**3], "size": 0}, errno.EBADMSG),
    ({"shape": "34"}, errno.EBADMSG),
    ({"order": "K"}, errno.EBADMSG),
    ({"shape": [1] * 9, "size": 8}, errno.ENOTSUP),
    ({"dtype": "<U3"}, errno.ENOTSUP),
    ({"dtype": ""}, errno.ENOTSUP),
    ({"dtype": "<f0"}, errno.ENOTSUP),
    ({"dtype": {"itemsize": 8, "fields": []}}, errno.ENOTSUP),
    ({"format": "bytes"}, errno.ENOTSUP),
]


def test_array_is_read_when_everything_about_it_holds(program: Path) -> None:
    assert read(program, [msgpack.packb({**ARRAY, **change}) for change in GOOD]) == [0] * len(GOOD)


def test_array_is_refused_when_one_field_is_wrong(program: Path) -> None:
    numbers = read(program, [msgpack.packb({**ARRAY, **change}) for change, _ in BAD])
    assert [(change, number) for (change, _), number in zip(BAD, numbers, strict=True)] == BAD


def test_no_prefix_of_metadata_is_an_array(program: Path) -> None:
    whole = msgpack.packb({**ARRAY, **GOOD[1]})
    assert 0 not in read(program, [whole[:end] for end in range(len(whole))])


def test_no_bytes_lead_out_of_the_metadata_or_of_the_data(program: Path) -> None:
    """Any bytes, and sound metadata with some of its bytes changed. The program looks at what is read."""
    chance = random.Random(14)
    whole = msgpack.packb({**ARRAY, **GOOD[1]})
    inputs = [chance.randbytes(chance.randrange(60)) for _ in range(20_000)]
    for _ in range(40_000):
        changed = bytearray(whole)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        inputs.append(bytes(changed))
    numbers = read(program, inputs)
    assert len(numbers) == len(inputs)
    assert {0, errno.EBADMSG, errno.ENOTSUP} == set(numbers)
