"""Objects by pickle: arrays in them stay where they are, and nothing is unpickled without permission."""

from __future__ import annotations

import dataclasses
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmclient
import shmclient.aio
from shmclient import _codecs
from shmclient._codecs import objects

RAN: list[str] = []


def run(where: str) -> None:
    RAN.append(where)


@dataclasses.dataclass
class Model:
    name: str
    weights: np.ndarray[Any, Any]
    layers: list[dict[str, Any]]
    tags: frozenset[str] = frozenset({"a"})


class Program:
    """Its pickle is a program, as every pickle can be."""

    def __reduce__(self) -> Any:
        return run, ("here",)


def model() -> Model:
    weights = np.arange(10_000.0)
    layers = [{"kernel": np.full((3, 3), 7, "f4"), "step": weights[::2]}, {"f": np.asfortranarray(np.eye(4))}]
    return Model("first", weights, layers)


def check(got: Model, inside: range) -> None:
    expected = model()
    assert (got.name, got.tags) == (expected.name, expected.tags)
    pairs = [(got.weights, expected.weights)]
    for layer, other in zip(got.layers, expected.layers, strict=True):
        pairs += [(layer[key], other[key]) for key in other]
    for array, content in pairs:
        np.testing.assert_array_equal(array, content)
        assert array.ctypes.data in inside
        assert array.ctypes.data % 64 == 0
        assert not array.flags.writeable


def test_arrays_of_an_object_lie_in_the_region(shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.put_object("model", model(), mode=0o640) as region:
        inside = range(region.address, region.address + region.capacity)
    assert shm.stat("model").mode == 0o640
    check(other.get_object("model", allow_pickle=True), inside)


def test_arrays_of_an_object_lie_in_the_arena(arena: shmclient.Arena, other: shmclient.Client) -> None:
    arena.put_object("model", model())
    with other.open_arena("camera") as view:
        grant = view._reader.grant
        check(
            view.get_object("model", allow_pickle=True), range(grant.address, grant.address + grant.capacity)
        )
    check(
        other.get_object("camera/model", allow_pickle=True),
        range(grant.address, grant.address + grant.capacity),
    )


async def test_async_client_has_the_same_objects(ashm: shmclient.aio.AsyncClient) -> None:
    region = await ashm.put_object("model", model())
    inside = range(region.address, region.address + region.capacity)
    check(await ashm.get_object("model", allow_pickle=True, wait=1), inside)
    with pytest.raises(shmclient.InvalidArgument, match="allow_pickle"):
        await ashm.get_object("model")


def test_object_is_not_unpickled_without_permission(shm: shmclient.Client) -> None:
    RAN.clear()
    shm.put_object("program", {"a": Program()}).close()
    with pytest.raises(ValueError, match=r"trust.*allow_pickle=True"):
        shm.get_object("program")
    value = shm.get("program")
    assert isinstance(value, shmclient.PickledObject)
    assert "load()" in repr(value)
    with pytest.raises(shmclient.InvalidArgument, match="allow_pickle"):
        value.load()
    assert RAN == []
    value.load(allow_pickle=True)
    assert RAN == ["here"]


def test_value_that_is_no_pickle_needs_no_permission(shm: shmclient.Client) -> None:
    shm.put("x", {"a": [1, "text"]}).close()
    assert shm.get_object("x") == {"a": [1, "text"]}


def test_pickled_object_can_be_a_part_of_a_value(shm: shmclient.Client) -> None:
    shm.put("x", {"a": shmclient.pickled({1, 2}), "b": [shmclient.pickled(model())]}).close()
    got = shm.get("x")
    assert got["a"].load(allow_pickle=True) == {1, 2}
    assert got["b"][0].load(allow_pickle=True).name == "first"


def test_arrays_of_an_object_keep_the_region_mapped(shm: shmclient.Client) -> None:
    shm.put_object("x", [np.arange(1000)]).close()
    (array,) = shm.get_object("x", allow_pickle=True)
    shm.unlink("x")
    assert array.sum() == 499_500


def test_object_can_have_a_hundred_thousand_arrays(shm: shmclient.Client) -> None:
    shm.put_object("x", {number: np.full(2, number) for number in range(100_000)}).close()
    got = shm.get_object("x", allow_pickle=True)
    assert len(got) == 100_000
    assert all(got[number][1] == number for number in (0, 50_000, 99_999))


@pytest.mark.parametrize("value", [np.array([{1}, None]), np.ma.array([1, 2], mask=[0, 1]), 1j, {3: "x"}])
def test_what_put_refuses_can_be_put_as_an_object(value: Any, shm: shmclient.Client) -> None:
    shm.put_object("x", value).close()
    assert repr(shm.get_object("x", allow_pickle=True)) == repr(value)


def test_same_array_is_the_same_again(shm: shmclient.Client) -> None:
    array = np.arange(10)[::2]
    shm.put_object("x", [array, array]).close()
    first, second = shm.get_object("x", allow_pickle=True)
    assert first is second


def test_object_that_cannot_be_pickled_leaves_nothing(shm: shmclient.Client) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        shm.put_object("x", lambda: None)
    assert not shm.exists("x")


def test_pickled_object_is_not_pickled_itself() -> None:
    with pytest.raises(TypeError, match="load"):
        pickle.dumps(shmclient.pickled({1}))


def block(*places: tuple[int, int], count: int | None = None, stream: tuple[int, int] = (0, 4)) -> bytes:
    table = b"".join(struct.pack("<QQ", *entry) for entry in places)
    return (
        b"\x80\x05N.".ljust(64, b"\0")
        + table
        + struct.pack("<QQQ", len(places) if count is None else count, *stream)
    )


HOSTILE = {
    "nothing": b"",
    "too short": bytes(23),
    "more buffers than fit": block((0, 4), count=6),
    "very many buffers": block((0, 4), count=2**64 - 1),
    "buffer beyond the block": block((100, 5)),
    "buffer far beyond the block": block((2**63, 5)),
    "buffer that wraps": block((2**64 - 4, 8)),
    "stream beyond the block": block(stream=(64, 25)),
    "stream that wraps": block(stream=(2**64 - 4, 8)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_block_is_a_bad_region_before_anything_is_unpickled(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle, "loads", None)
    with pytest.raises(shmclient.BadRegion):
        _codecs.decode({"format": "pickle", "offset": 0, "size": len(content)}, memoryview(content))


@pytest.mark.parametrize("stream", [b"", b"\x80\x05", b"nonsense", b"\x80\x05\x97."], ids=repr)
def test_stream_that_is_no_pickle_is_a_bad_region(stream: bytes) -> None:
    content = stream + struct.pack("<QQQ", 0, 0, len(stream))
    value = _codecs.decode({"format": "pickle", "offset": 0, "size": len(content)}, memoryview(content))
    with pytest.raises(shmclient.BadRegion):
        value.load(allow_pickle=True)


def test_good_block_is_read() -> None:
    content = block((0, 4))
    value = _codecs.decode({"format": "pickle", "offset": 0, "size": len(content)}, memoryview(content))
    assert value.load(allow_pickle=True) is None


@given(st.binary(max_size=150))
@settings(deadline=None)
def test_any_block_is_read_inside_of_its_bounds(content: bytes) -> None:
    try:
        value = objects.plan({})(memoryview(content), 0, len(content))
    except ValueError:
        return
    assert value.nbytes <= len(content) * (1 + len(content) // 16)
