"""`shm_array_read` believes nothing: metadata of any bytes, under sanitizers."""

from __future__ import annotations

import errno
import random
import re
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import msgpack
import numpy as np
import pytest

from native_support import ROOT, STRICT, WAYS
from shmclient import _codecs

SPECIFICATION = (ROOT / "README.md").read_text("utf-8")

ARRAY = {"format": "ndarray", "dtype": "<f8", "shape": [3, 4], "order": "C", "offset": 64, "size": 96}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metadata") / "metadata"
    source = Path(__file__).with_name("array_metadata.c")
    subprocess.run([*WAYS["sanitized"], *STRICT, source, "-o", path], check=True)
    return path


def read(program: Path, metadata: Sequence[bytes], *options: str) -> list[int]:
    """Return what each is read as: 0, or an error's number."""
    content = b"".join(struct.pack("<H", len(each)) + each for each in metadata)
    result = subprocess.run([program, *options], input=content, capture_output=True, timeout=100)
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
    ({"dtype": "bfloat1"}, errno.ENOTSUP),
    ({"dtype": "bfloat160"}, errno.ENOTSUP),
    ({"dtype": "float8_e4m3fn" + "x" * 20}, errno.ENOTSUP),
    ({"dtype": "bfloat16"}, errno.EBADMSG),
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


SMALL = re.findall(
    r"^\| `([a-z0-9_]+)` \| (\d) \| (\d+) \| (\d+) \| (\d+) \| (\d+)? ?\|", SPECIFICATION, re.MULTILINE
)
WHOLE = re.findall(r"`(u?int\d)`", SPECIFICATION.split("whole numbers of less than a byte")[1][:200])


def test_small_numbers_of_the_specification_are_those_of_ml_dtypes() -> None:
    assert len(SMALL) == 12
    for name, itemsize, bits, exponent, mantissa, bias in SMALL:
        kind = getattr(ml_dtypes, name)
        info = ml_dtypes.finfo(kind)
        layout = np.dtype(kind).itemsize, info.bits, info.nexp, info.nmant
        assert (name, *layout) == (name, *map(int, (itemsize, bits, exponent, mantissa)))
        assert float(info.smallest_normal) == 2.0 ** ((0 if name.startswith("float8_e8") else 1) - int(bias))
    assert [np.dtype(getattr(ml_dtypes, name)).itemsize for name in WHOLE] == [1] * 6


def test_small_numbers_are_described_in_c_as_in_python(program: Path) -> None:
    names = [*(row[0] for row in SMALL), *WHOLE]
    arrays = [np.zeros((3, 4), getattr(ml_dtypes, name)) for name in names]
    metadata = [_codecs.encode(array).metadata for array in arrays]
    assert read(program, metadata, "again") == [0] * 18
    assert read(program, [msgpack.packb(ARRAY)], "again") == [0]


def test_array_of_bfloat16_has_the_bytes_of_the_specification() -> None:
    block = SPECIFICATION.split("```hex bfloat16\n")[1].split("```")[0]
    written = bytes.fromhex(" ".join(line.split("#")[0] for line in block.splitlines()))
    array = np.array([1, -2.5, 3e38, np.inf], ml_dtypes.bfloat16)
    assert _codecs.encode(array).metadata + array.tobytes() == written


VALUES = """
#include "shm_array.h"
#include <stdio.h>

int main(void)
{
        for (uint32_t i = 0; i < 65536; i++) {
                float value = shm_array_bfloat16((uint16_t)i);

                if (fwrite(&value, sizeof(value), 1, stdout) != 1)
                        return 1;
        }
        return 0;
}
"""


def test_value_of_a_bfloat16_is_that_of_python(tmp_path: Path) -> None:
    source = tmp_path / "values.c"
    source.write_text(VALUES)
    subprocess.run([*WAYS["c++17"], *STRICT, source, "-o", tmp_path / "values"], check=True)
    values = subprocess.run([tmp_path / "values"], capture_output=True, check=True, timeout=60).stdout
    items = np.arange(65536, dtype="u2").view(ml_dtypes.bfloat16)
    assert np.frombuffer(values, "u4").tolist() == items.astype("f4").view("u4").tolist()
