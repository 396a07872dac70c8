"""Dicts whose index lies in the payload: the same as dicts, whatever their size, but looked up when asked."""

from __future__ import annotations

import copy
import operator
import pickle
import struct
import tracemalloc
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shmclient
from shmclient import RegionDict, _codecs
from shmclient._codecs import index as indexing
from shmclient._codecs.region_dict import PLAIN_MAX
from shmprotocol.native.builtins import dict_find, dict_make
from support import WatchedHost, wait_until

README = Path(__file__).parents[2] / "protocol" / "README.md"
FILL = {f"fill/{number}": b"" for number in range(PLAIN_MAX)}  # what makes a dict a large one
MANY = 100_000


def stored(value: object) -> tuple[dict[str, Any], memoryview]:
    encoded = _codecs.encode(value)
    payload = bytearray(encoded.size)
    for offset, chunk in encoded.chunks:
        payload[offset : offset + chunk.nbytes] = chunk.cast("B")
    return _codecs.unpack_metadata(encoded.metadata), memoryview(bytes(payload))


def round_trip(value: object) -> Any:
    return _codecs.decode(*stored(value))


def inline(value: Mapping[str, Any]) -> tuple[dict[str, Any], memoryview]:
    """Return a dict in the form of earlier versions, with all descriptions in the metadata."""
    payload, items = bytearray(), []
    for key, item in value.items():
        description, data = stored(item)
        payload += bytes(-len(payload) % 64)
        items.append([key, description | {"offset": len(payload)}])
        payload += data
    return {"format": "dict", "items": items}, memoryview(bytes(payload))


def content(value: Any) -> Any:
    """Return what two values have in common if they are the same: all of it but the place in memory."""
    if isinstance(value, Mapping):
        return [(key, content(item)) for key, item in value.items()]
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.flags.f_contiguous, value.tobytes()
    return memoryview(value).format, memoryview(value).shape, bytes(value)


@pytest.fixture
def large() -> RegionDict:
    value: RegionDict = round_trip({f"key/{n}": np.full(3, n) for n in range(1000)} | {"bytes": b"abc"})
    assert type(value) is RegionDict
    return value


# --- what comes back the same

KEYS = st.text(max_size=6) | st.sampled_from(["", "\0", "a\0", "ü", "\U0001f600", "x" * 300])
SMALL_ARRAYS = hnp.arrays(
    hnp.scalar_dtypes() | hnp.array_dtypes(allow_subarrays=True),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
    fill=st.nothing(),
)
ARRAYS = SMALL_ARRAYS | st.builds(
    lambda size, order: np.ones((size, 3), "i4", order), st.integers(300, 400), st.sampled_from("CF")
)
VALUES = (
    ARRAYS | st.binary(max_size=200) | st.sampled_from([bytes(4096), bytes(4097), memoryview(b"abcd")[::2]])
)


@given(value=st.dictionaries(KEYS, VALUES, max_size=12))
@pytest.mark.parametrize("fill", [{}, FILL], ids=["small", "large"])
def test_any_dict_comes_back_the_same(fill: dict[str, Any], value: dict[str, Any]) -> None:
    value = value | fill
    got = round_trip(value)
    assert type(got) is (RegionDict if len(value) > PLAIN_MAX else dict)
    assert content(got) == content(value)
    assert [content(got[key]) for key in value] == [content(item) for item in value.values()]
    assert list(reversed(got)) == list(reversed(value))
    absent = max(value, default="") + "x"
    assert (absent in got, got.get(absent)) == (False, None)


@given(value=st.dictionaries(KEYS, VALUES, max_size=12))
def test_dict_of_an_earlier_version_is_the_same(value: dict[str, Any]) -> None:
    assert content(_codecs.decode(*inline(value))) == content(round_trip(value | FILL))[: len(value)]


@pytest.mark.parametrize("count", [PLAIN_MAX, PLAIN_MAX + 1])
def test_small_dict_is_a_plain_one(count: int) -> None:
    got = round_trip({f"{number}": b"" for number in range(count)})
    assert (type(got), len(got)) == (dict if count == PLAIN_MAX else RegionDict, count)


def test_values_are_read_only_views_of_the_payload() -> None:
    metadata, data = stored(FILL | {"a": np.arange(3), "b": b"xyz"})
    value = _codecs.decode(metadata, data)
    assert not value["a"].flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        value["a"].flags.writeable = True
    assert value["b"].readonly
    assert np.shares_memory(value["a"], np.frombuffer(data, "u1"))
    assert value["a"].ctypes.data % 64 == np.frombuffer(data, "u1").ctypes.data % 64
    with pytest.raises(TypeError):
        value["a"] = 1


def test_values_share_what_they_have_in_common() -> None:
    """A key takes 40 bytes, its text and two words; what an array is, is said once for all that are alike."""
    _, data = stored({f"{number:08}": np.zeros(16, "f4") for number in range(1024)})
    assert len(data) - 1024 * 64 - 1024 * (40 + 8 + 4) - 4 * 1024 // 16 < 200


def test_index_is_that_of_the_specification() -> None:
    block = README.read_text("utf-8").split("```hex dict\n")[1].split("```")[0]
    raw = bytes.fromhex(" ".join(line.split("#")[0] for line in block.splitlines()))
    metadata, data = stored({"a": b"xyz"})
    assert data[metadata["index"] :][: len(raw)] == raw
    assert _codecs.encode({"a": b"xyz"}).metadata == b"\x82\xa6format\xa4dict\xa5index\xcf" + bytes(7) + b"@"


# --- as a dict


def test_it_is_looked_up_as_a_dict_is(large: RegionDict) -> None:
    assert large["key/7"].tolist() == [7, 7, 7]
    assert large.get("none") is None
    assert large.get("none", 5) == 5
    assert ("key/7" in large, "none" in large, 7 in large, "\ud800" in large) == (True, False, False, False)
    for key in ("none", 7, None, "\ud800", ("a",)):
        with pytest.raises(KeyError) as caught:
            large[key]  # type: ignore[index]
        assert caught.value.args == (key,)
    with pytest.raises(TypeError, match="unhashable"):
        large[[]]  # type: ignore[index]


def test_its_views_are_those_of_a_dict(large: RegionDict) -> None:
    plain = large.copy()
    assert type(plain) is dict
    assert list(large) == list(large.keys()) == list(plain)
    assert [value.nbytes for value in large.values()] == [value.nbytes for value in plain.values()]
    assert content(dict(large.items())) == content(plain) == content(dict(large)) == content({**large})
    assert (len(large.items()), len(large.keys()), len(large.values())) == (1001, 1001, 1001)
    assert large.keys() & {"key/1", "none"} == {"key/1"}
    match large:
        case {"bytes": view, **rest}:
            assert (bytes(view), len(rest)) == (b"abc", 1000)


def test_it_equals_a_dict_of_its_values() -> None:
    value: Any = {f"{number}": str(number).encode() for number in range(100)}
    got = round_trip(value)
    assert got == value
    assert value == got
    assert got == round_trip(value)
    assert got != value | {"0": b"other"}
    assert got != {**FILL}
    assert got != 7
    with pytest.raises(TypeError, match="unhashable"):
        hash(got)


def test_union_with_a_dict_is_a_dict(large: RegionDict) -> None:
    assert list(large | {"new": 1})[-1] == "new"
    assert (large | {"bytes": 1})["bytes"] == 1
    assert bytes(({"bytes": 1, "first": 2} | large)["bytes"]) == b"abc"
    assert next(iter({"first": 2} | large)) == "first"
    with pytest.raises(TypeError):
        operator.or_(large, 7)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_are_dicts_with_memory_of_their_own(duplicate: Callable[[Any], Any]) -> None:
    value = {f"{number}": np.full(2, number) for number in range(100)}
    got = duplicate(round_trip(value))
    assert type(got) is dict
    # As of a plain dict of read-only arrays: with protocol 5, Python 3.14's default, they stay read-only.
    if got["99"].flags.writeable:
        got["99"][0] = 5
        assert got["99"].tolist() == [5, 99]
    assert content(got | {"99": value["99"]}) == content(value)


def test_shallow_copy_has_views_of_the_same_memory(large: RegionDict) -> None:
    got = copy.copy(large)
    assert type(got) is dict
    assert np.shares_memory(got["key/1"], large["key/1"])


def test_repr_is_short(large: RegionDict) -> None:
    assert repr(large) == "<RegionDict of 1001 values: 'key/0', 'key/1', 'key/2', ...>"


def test_it_has_no_constructor() -> None:
    with pytest.raises(TypeError, match=r"client\.get"):
        RegionDict()


# --- size, memory and lifetime


def test_100_000_arrays_are_one_region(shm: shmclient.Client) -> None:
    value = {f"obj/{number}": np.full(16, number, "u8") for number in range(MANY)}
    shm.put("d", value).close()
    got = shm.get("d")
    assert len(got) == MANY
    assert got["obj/99999"].tolist() == [99_999] * 16
    assert all(int(array[15]) == number for number, array in enumerate(got.values()))
    assert list(got) == list(value)


def test_get_makes_no_object_for_a_key(shm: shmclient.Client) -> None:
    shm.put("d", {f"{number}": b"x" for number in range(MANY)}).close()
    shm.get("d")["5"]
    tracemalloc.start()
    try:
        got = shm.get("d")
        bytes(got["77777"])
        assert sum(1 for _ in got) == MANY
        assert tracemalloc.get_traced_memory()[1] < 500_000  # 100,000 views would have 18,000,000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", ["dict", "value", "items"])
def test_region_stays_mapped_while_any_of_it_is_used(
    what: str, host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("d", {"a": b"abc"} | FILL).close()
    got = shm.get("d")
    used: Any = {"dict": got, "value": got["a"], "items": iter(got.items())}[what]
    gone = weakref.ref(got)
    del got
    assert (gone() is None) == (what == "value")
    shm.unlink("d")
    read = {"dict": lambda x: x["a"], "value": lambda x: x, "items": lambda x: next(x)[1]}[what]
    assert bytes(read(used)) == b"abc"
    assert host.counts()["regions"] == 1
    del used
    wait_until(lambda: host.counts()["regions"] == 0)


def test_values_between_large_ones_are_where_they_belong(shm: shmclient.Client) -> None:
    sizes = [0, 1, 64, 4095, 4096, 4097, 0, 100_000, 0, 3, 70, 2_000_000, 1] * 30
    value = {f"{n}": np.random.default_rng(n).bytes(size) for n, size in enumerate(sizes)}
    shm.put("d", value).close()
    assert content(shm.get("d")) == content(value)


def test_builder_writes_the_same_index(shm: shmclient.Client) -> None:
    with shm.create("d", 100_003) as builder:
        for number in range(PLAIN_MAX - 10):
            builder.array(number % 3, "f4", name=f"{number}/ü")[:] = number
    got = shm.open("d")
    assert got.metadata["index"] % 8 == 0
    assert got.size == 100_003
    assert content(got.value()) == content({f"{n}/ü": np.full(n % 3, n, "f4") for n in range(PLAIN_MAX - 10)})


# --- what is refused


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((2, 2), np.dtype("f4", metadata={"unit": "m"})),
        np.ma.array(np.zeros((2, 2), "f4")),
        np.zeros((2, 2), "f4").view(type("Mine", (np.ndarray,), {})),
    ],
    ids=["metadata", "mask", "class"],
)
def test_array_that_nearly_equals_others_is_refused(other: Any) -> None:
    """What is said once for alike arrays must not be said of an array that only compares as they do."""
    with pytest.raises(TypeError, match="'b'"):
        _codecs.encode({"a": np.zeros((2, 2), "f4"), "b": other})


def test_arrays_that_nearly_equal_others_keep_what_they_are() -> None:
    base: Any = np.arange(4, dtype="i8").reshape(2, 2)
    record = np.dtype((np.record, [("x", "<i8")]))
    value = {
        "array": base,
        "F": np.asfortranarray(base),
        "long long": base.astype(np.longlong),
        "swapped": base.astype(">i8"),
        "unsigned": base.astype("u8"),
        "matrix": base.view(np.matrix),
        "records": base.view(record),
        "reversed": base[::-1],
        "slice": np.arange(16).reshape(4, 4)[:2, :2],
        "scalar": np.int64(7),
    }
    value |= {f"{key} again": item for key, item in value.items()}
    got = round_trip(value)
    assert content(got) == [(key, content(np.asanyarray(item))) for key, item in value.items()]
    assert [type(got[key]) for key in ("matrix", "matrix again")] == [np.matrix] * 2


class Twice(str):
    """A key that differs from others of the same text."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def test_two_keys_of_one_text_are_refused() -> None:
    with pytest.raises(shmclient.InvalidArgument, match="two keys"):
        _codecs.encode({Twice("a"): b"", Twice("a"): b""})


def test_keys_that_collide_are_stored_with_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed of 0 lets all keys of zero bytes collide; so does an attacker who knows the seed."""
    value = {"\0" * number: b"%d" % number for number in range(2000)}
    monkeypatch.setattr(indexing, "SEED", 0)
    seeds = []
    monkeypatch.setattr(indexing, "dict_make", lambda *lists: seeds.append(lists[-1]) or dict_make(*lists))
    metadata, data = stored(value)
    assert seeds[0] == 0
    assert len(seeds) == 2
    assert struct.unpack_from("<Q", data, metadata["index"] + 40)[0] == seeds[1]
    assert _codecs.decode(metadata, data) == value


def test_reader_takes_any_seed_and_finds_nothing_else() -> None:
    for seed in (0, 1, 2**64 - 1):
        index = dict_make(["a", "b"], [0, 8], [8, 8], [0, 0], [b"x"], 0, seed)
        assert dict_find(index, 16, "b") == (8, 8, b"x")
        assert dict_find(index, 16, "c") is None
