"""Text, numbers, None, and lists, tuples and dicts of any depth: `put` takes them without a pickle."""

from __future__ import annotations

import collections
import contextlib
import enum
import math
import re
import struct
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shmclient
import shmclient.aio
from shmclient import _codecs
from shmclient._codecs.trees import DEPTH_MAX

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)
SCALARS: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    10**40,
    1.5,
    math.inf,
    "",
    "Grüße",
]


def typed(value: Any) -> Any:
    """Return a value with the types of all its parts: 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return dict, [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value


def round_trip(value: Any) -> Any:
    encoded = _codecs.encode(value)
    data = bytearray(encoded.size)
    for offset, chunk in encoded.chunks:
        data[offset : offset + chunk.nbytes] = chunk.cast("B")
    return _codecs.decode(_codecs.unpack_metadata(encoded.metadata), memoryview(data).toreadonly())


@given(values)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_values_come_back_with_their_types(value: Any) -> None:
    assert typed(dict(round_trip(value)) if isinstance(value, dict) else round_trip(value)) == typed(value)


@pytest.mark.parametrize("value", SCALARS, ids=repr)
def test_scalar_comes_back_from_regions_and_arenas(
    value: Any, shm: shmclient.Client, other: shmclient.Client, arena: shmclient.Arena
) -> None:
    shm.put("x", value).close()
    arena["x"] = value
    for got in (other.get("x"), other.get("camera/x"), other.open_arena("camera")["x"], arena["x"]):
        assert typed(got) == typed(value)
    assert other.get_many(["x", "camera/x"]) == [value, value]
    assert other.open("x").value() == value
    assert next(other.follow("x")) == value


async def test_async_client_has_the_same_values(
    shm: shmclient.Client, ashm: shmclient.aio.AsyncClient
) -> None:
    value = {"text": "x", "none": None, "list": [1, (2.5, "y")]}
    (await ashm.put("x", value)).close()
    assert await ashm.get("x") == shm.get("x") == value


def test_none_that_is_followed_is_a_value(shm: shmclient.Client, arena: shmclient.Arena) -> None:
    shm.put("x", None).close()
    with shm.follow("x") as region, shm.follow("camera/x") as entry:
        arena["x"] = None
        assert next(region) is None
        assert next(entry) is None
        shm.put("x", 1).close()
        arena["x"] = 2
        assert (next(region), next(entry)) == (1, 2)
        arena["x"] = None
        assert next(entry) is None


def test_arrays_in_nested_values_lie_in_the_region(shm: shmclient.Client) -> None:
    big = np.arange(10_000.0)
    region = shm.put("x", {"a": {"b": big}, "c": [(big[::2], b"bytes")], "d": np.asfortranarray(np.eye(3))})
    got = shm.get("x")
    (half, content), inside = got["c"][0], range(region.address, region.address + region.capacity)
    for array, expected in ((got["a"]["b"], big), (half, big[::2]), (got["d"], np.eye(3))):
        assert array.ctypes.data in inside
        assert array.ctypes.data % 64 == 0
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, expected)
    assert content == b"bytes"
    assert np.frombuffer(content, "u1").ctypes.data in inside


def test_nested_arrays_keep_the_region_mapped(shm: shmclient.Client) -> None:
    shm.put("x", [np.arange(1000)]).close()
    (array,) = shm.get("x")
    shm.unlink("x")
    assert array.sum() == 499_500


def test_many_nested_arrays_of_a_kind_share_a_description() -> None:
    encoded = _codecs.encode([np.full(3, number) for number in range(10_000)])
    assert encoded.size < 10_000 * 100
    assert [array[0] for array in round_trip([np.full(3, number) for number in range(10)])] == list(range(10))


@pytest.mark.parametrize("depth", [DEPTH_MAX, DEPTH_MAX + 1])
def test_depth_has_a_limit(depth: int) -> None:
    value: Any = []
    for _ in range(depth):
        value = [value]
    if depth == DEPTH_MAX:
        assert round_trip(value) == value
    else:
        with pytest.raises(shmclient.InvalidArgument, match="put_object"):
            _codecs.encode(value)


def test_list_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(shmclient.InvalidArgument, match="contains itself"):
        _codecs.encode(value)


class Colour(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize("value", [Colour.RED, Point(1, 2), {1}, 1j, [object], [Colour.RED]], ids=repr)
def test_what_would_lose_its_class_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="put_object"):
        _codecs.encode(value)


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(shmclient.InvalidArgument, match="UTF-8"):
        _codecs.encode(["\ud800"])


def block(descriptions: Any, tree: Any, *, length: int | None = None, before: bytes = bytes(64)) -> bytes:
    stream = msgpack.packb(descriptions) + msgpack.packb(tree)
    return before + stream + struct.pack("<Q", len(stream) if length is None else length)


def leaf(kind: int, offset: int, size: int, code: int = 1) -> msgpack.ExtType:
    return msgpack.ExtType(code, struct.pack("<IQQ", kind, offset, size))


ARRAY = {"format": "ndarray", "dtype": "<f8", "shape": [2], "order": "C"}
HOSTILE = {
    "nothing": b"",
    "too short": b"1234567",
    "length beyond the block": block([], None, length=2**63),
    "no stream": struct.pack("<Q", 0),
    "half a stream": block([], "some text", length=3),
    "leaf beyond the block": block([ARRAY], leaf(0, 2**40, 16)),
    "leaf that wraps": block([ARRAY], leaf(0, 2**64 - 8, 16)),
    "leaf of another size": block([ARRAY], leaf(0, 0, 24)),
    "leaf without a description": block([], leaf(0, 0, 16)),
    "leaf of objects": block([ARRAY | {"dtype": "|O"}], leaf(0, 0, 16)),
    "leaf that contains itself": block([{"format": "tree"}], leaf(0, 0, 100)),
    "description that is none": block([7], leaf(0, 0, 16)),
    "unknown extension": block([ARRAY], leaf(0, 0, 16, code=9)),
    "extension of one byte": block([ARRAY], msgpack.ExtType(1, b"x")),
    "keys that are numbers": block([], {1: 2}),
    "nested too deep": b"\x91" * 5000 + b"\xc0" + struct.pack("<Q", 5001),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_block_is_a_bad_region(content: bytes) -> None:
    with pytest.raises(shmclient.BadRegion):
        _codecs.decode({"format": "tree", "offset": 0, "size": len(content)}, memoryview(content))


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_block_is_a_value_or_a_bad_region(content: bytes) -> None:
    with contextlib.suppress(shmclient.BadRegion):
        _codecs.decode({"format": "tree", "offset": 0, "size": len(content)}, memoryview(content))


def test_block_is_that_of_the_specification() -> None:
    text = (Path(__file__).parents[2] / "protocol" / "README.md").read_text("utf-8")
    lines = re.findall(r"```hex tree\n(.*?)```", text, re.DOTALL)[0].splitlines()
    content = bytes.fromhex("".join(line.partition("#")[0] for line in lines))
    encoded = _codecs.encode([7, "a"])
    assert b"".join(bytes(chunk) for _, chunk in encoded.chunks) == content
    assert _codecs.unpack_metadata(encoded.metadata) == {"format": "tree", "offset": 0, "size": len(content)}


def test_good_block_is_read() -> None:
    array = _codecs.decode(
        {"format": "tree", "offset": 0, "size": len(content := block([ARRAY], [leaf(0, 0, 16)]))},
        memoryview(content),
    )
    assert array[0].tolist() == [0, 0]
