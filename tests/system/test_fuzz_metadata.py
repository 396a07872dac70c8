"""Hostile metadata: whatever it says, a reader gets a value inside the region, or BadRegion."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzzing import Reader, check_inside, forked
from shmclient import _codecs, posix
from shmprotocol.errors import BadRegion

PAYLOAD = 4096


def decoded(raw: bytes) -> str:
    """Decode metadata over a page of memory; say what became of it."""
    data = PAGE.buffer
    try:
        value = _codecs.decode(_codecs.unpack_metadata(raw), data)
    except BadRegion:
        return "refused"
    check_inside(value, PAGE.address, PAGE.address + PAYLOAD)
    return "value"


PAGE = posix.mmap(None, PAYLOAD, posix.PROT_READ, posix.MAP_PRIVATE | posix.MAP_ANONYMOUS)
NUMBERS = st.sampled_from(
    [-1, 0, 1, 2, 3, 4, 8, 16, 64, 4095, 4096, 4097, 2**31, 2**32, 2**62, 2**63, 2**64 - 1]
)
SMALL = st.integers(0, 3)
PLAIN = ["|b1", "|i1", "<i2", ">u4", "<f8", "<f16", ">c8", "<c32", "|S3", "<U1", "|V7", "<M8[s]", "bfloat16"]
EDGE = ["|S0", "<U0", "|V0", "|V2147483647", "<U999999999", "<M8", ">m8[25us]", "int4", "float8_e5m2"]
WRONG = ["float8_e1m1", "finfo", "object", "|O", "f4", "<f4,<f4", "(2,)<f4"]
NAMES = st.sampled_from([*PLAIN, *EDGE, *WRONG])
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | st.text(max_size=4) | st.binary(max_size=4) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def packed(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


@st.composite
def mutated(draw: st.DrawFn, description: dict[str, Any]) -> dict[str, Any]:
    """Return a description as it is, or with one key lost or changed."""
    changed = dict(description)
    fate = draw(st.integers(0, 5))
    if fate < 2 and changed:
        key = draw(st.sampled_from(sorted(changed)))
        changed[key] = draw(ANYTHING if fate else NUMBERS | NAMES | st.lists(NUMBERS, max_size=3))
    elif fate == 2 and changed:
        del changed[draw(st.sampled_from(sorted(changed)))]
    return changed


@st.composite
def structures(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    fields = []
    for number in range(draw(SMALL)):
        field = {"name": f"f{number}", "dtype": draw(inner), "offset": 8 * draw(SMALL)}
        if draw(st.booleans()):
            field["shape"] = draw(st.lists(SMALL, max_size=2))
        if draw(st.booleans()):
            field["title"] = draw(st.sampled_from(["t", "f0", f"t{number}"]))
        fields.append(draw(mutated(field)))
    flags = draw(st.dictionaries(st.sampled_from(["align", "record"]), st.booleans()))
    return draw(mutated({"itemsize": draw(st.sampled_from([0, 8, 32, 64])), "fields": fields, **flags}))


DTYPES = st.recursive(NAMES, structures, max_leaves=5)


@st.composite
def arrays(draw: st.DrawFn) -> dict[str, Any]:
    """Return an array's description, most often with the size that belongs to it."""
    dtype, shape = draw(DTYPES), draw(st.lists(SMALL, max_size=3) | st.lists(NUMBERS, max_size=3))
    try:
        size = math.prod(shape) * _codecs.dtypes.parse(dtype).itemsize % 2**64
    except Exception:
        size = draw(NUMBERS)
    description = {"format": "ndarray", "dtype": dtype, "shape": shape, "order": draw(st.sampled_from("CF"))}
    if draw(st.integers(0, 3)) == 0:
        description["class"] = draw(st.sampled_from(["matrix", "recarray", "MaskedArray"]))
    return draw(mutated(description | {"offset": draw(NUMBERS | SMALL), "size": size}))


@st.composite
def buffers(draw: st.DrawFn) -> dict[str, Any]:
    code, shape = draw(st.sampled_from("cbB?hHiIlLqQnNfdPOew")), draw(st.lists(SMALL, max_size=3))
    size = math.prod(shape) * struct.calcsize("=q" if code in "OPw" else code)
    description = {"format": "bytes", "item": code, "shape": shape, "offset": draw(SMALL), "size": size}
    return draw(mutated(description))


ITEMS = arrays() | buffers()
DICTS = st.lists(st.tuples(st.text(max_size=3), ITEMS), max_size=3).map(
    lambda items: {"format": "dict", "items": items}
)
METADATA = (ITEMS | DICTS | DICTS.flatmap(mutated)).map(packed)
DIES = {"format": "ndarray", "dtype": "|V0", "shape": [-1], "order": "C", "offset": 0, "size": 0}  # in NumPy


@pytest.fixture(scope="module")
def python_reader() -> Iterator[Reader]:
    assert ml_dtypes  # loaded before the fork, so that no child has to
    reader = Reader(lambda: forked(decoded))
    yield reader
    assert reader.stop() == 0


@given(raw=METADATA)
@example(raw=packed(DIES))
def test_metadata_that_is_nearly_right_is_a_value_inside_or_a_bad_region(
    raw: bytes, python_reader: Reader
) -> None:
    assert python_reader.ask(raw) in ("value", "refused")


@given(raw=st.dictionaries(st.text(max_size=6), ANYTHING, max_size=4).map(packed) | st.binary(max_size=64))
def test_metadata_of_anything_is_a_value_inside_or_a_bad_region(raw: bytes, python_reader: Reader) -> None:
    assert python_reader.ask(raw) in ("value", "refused")


def test_fuzzing_reaches_values_and_refusals(python_reader: Reader) -> None:
    """Most examples would be refused by the first check, if they were not nearly right."""
    good = [_codecs.encode(value).metadata for value in (np.ones(3), b"1", np.zeros(2, "i4,f8"))]
    good.append(packed({"format": "dict", "items": [["a", _codecs.unpack_metadata(good[2])]]}))
    assert [python_reader.ask(raw) for raw in good] == ["value"] * 4
    assert python_reader.ask(b"\xc1") == "refused"
