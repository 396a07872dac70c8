"""Metadata that no codec wrote, or that lies, is a bad region and harms nobody."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmclient
from shmclient import _codecs
from support import in_child

README = Path(__file__).parents[2] / "protocol" / "README.md"
GOOD = {"format": "ndarray", "dtype": "<f4", "shape": [2, 2], "order": "C", "offset": 0, "size": 16}
FIELD = {"name": "a", "dtype": "<f4", "offset": 0}
STRUCTURE = {"itemsize": 8, "fields": [FIELD]}
DEEP: Any = "u1"
for _ in range(400):
    DEEP = {"itemsize": 1, "fields": [{"name": "a", "offset": 0, "dtype": DEEP}]}


def changed(**values: Any) -> dict[str, Any]:
    return GOOD | values


def with_dtype(dtype: Any) -> dict[str, Any]:
    return changed(dtype=dtype, shape=[2])


HOSTILE = {
    "shape that divides by zero": changed(dtype="|V0", shape=[-1], size=0),
    "shape to be guessed": changed(shape=[-1]),
    "shape of a truth": changed(dtype="<f8", shape=[True, 2]),
    "shape of halves": changed(shape=[2.0, 2]),
    "shape of no list": changed(shape={"0": 4}),
    "one number for a shape": changed(shape=4),
    "shape that overflows to the right size": changed(shape=[1 << 62, 1 << 2], size=0),
    "empty and too large": changed(shape=[0, 1 << 62], size=0),
    "empty and too long": changed(shape=[0, (1 << 64) - 1], size=0),
    "items of nothing, too many": changed(dtype="|V0", shape=[(1 << 63), 1], size=0),
    "65 dimensions": changed(shape=[1] * 64 + [4]),
    "too little": changed(shape=[2, 3]),
    "too much": changed(shape=[1, 3]),
    "order": changed(order="K"),
    "order of a list": changed(order=["C"]),
    "no order": {key: value for key, value in GOOD.items() if key != "order"},
    "class": changed(**{"class": "MaskedArray"}),
    "class of a list": changed(**{"class": ["matrix"]}),
    "matrix in three dimensions": changed(shape=[1, 2, 2], **{"class": "matrix"}),
    "beyond the end": changed(offset=16),
    "before the start": changed(offset=-16),
    "offset of a truth": changed(offset=True),
    "size of a float": changed(size=16.0),
    "objects": changed(dtype="|O"),
    "python": changed(dtype="__import__('os')"),
    "a list by commas": changed(dtype="<f4,<f4"),
    "repeats": changed(dtype="(2,)<f4"),
    "a name": changed(dtype="float32"),
    "no byte order": changed(dtype="f4"),
    "foreign digits": changed(dtype="|V٣"),
    "a new line": changed(dtype="<f4\n"),
    "bytes": changed(dtype=b"<f4"),
    "not a size": changed(dtype="<f3"),
    "item too large": changed(dtype="|V2147483648", shape=[0], size=0),
    "text too large": changed(dtype="<U999999999", shape=[0], size=0),
    "time": changed(dtype="<M8[99999999999s]"),
    "module of ml_dtypes": changed(dtype="finfo"),
    "unknown to ml_dtypes": changed(dtype="float8_e9m9"),
    "list": with_dtype([["a", "<f4"]]),
    "deep": with_dtype(DEEP),
    "field beyond": with_dtype(STRUCTURE | {"fields": [FIELD | {"offset": 6}]}),
    "field before": with_dtype(STRUCTURE | {"fields": [FIELD | {"offset": -4}]}),
    "field twice": with_dtype(STRUCTURE | {"fields": [FIELD, FIELD]}),
    "field of objects": with_dtype(STRUCTURE | {"fields": [FIELD | {"dtype": "|O"}]}),
    "field without name": with_dtype(STRUCTURE | {"fields": [{"dtype": "<f4", "offset": 0}]}),
    "name of bytes": with_dtype(STRUCTURE | {"fields": [FIELD | {"name": b"a"}]}),
    "title of a number": with_dtype(STRUCTURE | {"fields": [FIELD | {"title": 1}]}),
    "title of its name": with_dtype(STRUCTURE | {"fields": [FIELD | {"title": "a"}]}),
    "subarray to be guessed": with_dtype(STRUCTURE | {"fields": [FIELD | {"shape": [-1]}]}),
    "subarray too large": with_dtype(STRUCTURE | {"fields": [FIELD | {"shape": [1 << 20, 1 << 20]}]}),
    "subarray too long": with_dtype(STRUCTURE | {"fields": [FIELD | {"shape": [0, 1 << 64 - 1]}]}),
    "fields of a map": with_dtype(STRUCTURE | {"fields": {"a": FIELD}}),
    "itemsize": with_dtype(STRUCTURE | {"itemsize": -8}),
    "alignment": with_dtype(STRUCTURE | {"align": 1}),
    "out of alignment": with_dtype({"itemsize": 8, "align": True, "fields": [FIELD | {"offset": 2}]}),
    "item": {"format": "bytes", "item": "O", "shape": [2], "offset": 0, "size": 16},
    "item of a list": {"format": "bytes", "item": [], "shape": [2], "offset": 0, "size": 16},
    "items": {"format": "bytes", "item": "d", "shape": [3], "offset": 0, "size": 16},
    "items to be guessed": {"format": "bytes", "item": "d", "shape": [-1], "offset": 0, "size": 16},
    "items that overflow": {"format": "bytes", "item": "d", "shape": [1 << 63, 2], "offset": 0, "size": 16},
    "items of nothing": {"format": "bytes", "item": "d", "shape": [0], "offset": 0, "size": 16},
    "format of a list": {"format": []},
    "dict of nothing": {"format": "dict"},
    "dict of numbers": {"format": "dict", "items": [1]},
    "dict of three": {"format": "dict", "items": [["a", GOOD, GOOD]]},
    "key of a number": {"format": "dict", "items": [[1, GOOD]]},
    "item of a dict": {"format": "dict", "items": [["a", changed(dtype="|V0", shape=[-1], size=0)]]},
    "index of zeros": {"format": "dict", "index": 0},
    "index that is text": {"format": "dict", "index": "0"},
    "index that is true": {"format": "dict", "index": True},
    "index before the start": {"format": "dict", "index": -8},
    "index behind the end": {"format": "dict", "index": 1 << 63},
    "no item": {"format": "dict", "items": [["a", 1]]},
    "unknown, and outside": {"format": "dict", "items": [["a", {"format": "new", "offset": 8, "size": 9}]]},
}  # fmt: skip


def refuses(description: Any) -> None:
    data = memoryview(bytes(16))
    with pytest.raises(shmclient.BadRegion):
        _codecs.decode(description, data)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_metadata_is_a_bad_region(name: str) -> None:
    """In a child: NumPy divides by zero where it is let, and that ends the process."""
    assert in_child(lambda: refuses(HOSTILE[name])) == 0


def test_empty_structures_that_are_aligned_end_no_process() -> None:
    """NumPy 1 divides by their alignment, 0; NumPy 2 takes them."""

    def decode() -> None:
        empty: Any = {"itemsize": 0, "fields": [], "align": True}
        outer = {"itemsize": 0, "fields": [FIELD | {"dtype": empty}], "align": True}
        with contextlib.suppress(shmclient.BadRegion):
            _codecs.decode(changed(dtype=outer, size=0), memoryview(b""))

    assert in_child(decode) == 0


def test_good_metadata_is_not() -> None:
    assert _codecs.decode(GOOD, memoryview(bytes(16))).shape == (2, 2)
    assert _codecs.decode(with_dtype(STRUCTURE), memoryview(bytes(16)))["a"].tolist() == [0, 0]


def test_unknown_format_is_its_bytes() -> None:
    data = memoryview(b"0123456789")
    assert _codecs.decode({"format": "new"}, data) == data
    items = [["a", {"format": "new", "offset": 2, "size": 3}]]
    assert _codecs.decode({"format": "dict", "items": items}, data)["a"] == b"234"


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x00",
        b"\xc1",
        b"\x91\x01",
        b"\x05",
        b"\x81\x01\x02",
        b"\x81\xa1\xff\x01",
        b"\x91" * 5000,
        b"\xdd" * 5,
    ],
    ids=["trailing", "unused", "array", "number", "key", "not UTF-8", "deep", "long"],
)
def test_bytes_that_are_no_map_are_a_bad_region(raw: bytes) -> None:
    with pytest.raises(shmclient.BadRegion, match="msgpack map"):
        _codecs.unpack_metadata(raw)


# A timestamp out of range, an extension of a user, and a timestamp of a size that there is none of.
@pytest.mark.parametrize("value", [b"\xc7\x0c\xff" + b"\xff" * 12, b"\xd6\x05abcd", b"\xd4\xff\x00"])
def test_extensions_of_msgpack_are_a_bad_region(value: bytes) -> None:
    with pytest.raises(shmclient.BadRegion):
        _codecs.decode(_codecs.unpack_metadata(b"\x81\xa6format" + value), memoryview(b""))


def test_description_is_that_of_the_specification() -> None:
    block = README.read_text("utf-8").split("```hex metadata\n")[1].split("```")[0]
    raw = bytes.fromhex(" ".join(line.split("#")[0] for line in block.splitlines()))
    dtype = np.dtype([("id", "<i4"), ("position", "<f8", 3)], align=True)
    assert raw == _codecs.encode(np.zeros(2, dtype)).metadata
    assert _codecs.decode(_codecs.unpack_metadata(raw), memoryview(bytes(64))).dtype == dtype
