"""Many values at once: memory that is there before them, arrays of many kinds, what readers keep."""

from __future__ import annotations

import ctypes
import gc
import resource
import weakref
from collections.abc import Callable

import numpy as np
import pytest

import shmclient
from shmclient import Arena

MIB = 1 << 20
DATA = b"x" * (8 * MIB)
FEW = 500  # page faults of 2048: the shadow memory of sanitizers takes 256


def faults(call: Callable[[], object]) -> int:
    """Return how many page faults a call takes."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def test_populated_arena_takes_values_without_page_faults(shm: shmclient.Client) -> None:
    with (
        shm.arena("plain", 16 * MIB, names=100) as plain,
        shm.arena("populated", 16 * MIB, names=100, populate=True) as populated,
    ):
        assert faults(lambda: populated.put("value", DATA)) < FEW
        assert faults(lambda: plain.put("value", DATA)) > faults(lambda: populated.put("other", DATA[:MIB]))


def test_populated_arena_populates_what_it_grows_by(shm: shmclient.Client) -> None:
    with shm.arena("growing", 2 * MIB, max_size=32 * MIB, names=100, populate=True) as arena:
        arena.grow(16 * MIB)
        assert faults(lambda: arena.put("value", DATA)) < FEW


def test_arena_does_not_grow_by_memory_that_is_not_there(shm: shmclient.Client) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with shm.arena("growing", 2 * MIB, max_size=64 * MIB, names=100, populate=True) as arena:
        arena["value"] = b"before"
        hole = (arena._hold("value").address + 32 * MIB) & -MIB  # type: ignore[union-attr]
        assert libc.munmap(ctypes.c_void_p(hole), ctypes.c_size_t(MIB)) == 0
        with pytest.raises(shmclient.OutOfMemory):
            arena.grow(64 * MIB)
        assert arena.size == 2 * MIB
        arena["value"] = bytes(MIB)
        assert bytes(arena["value"]) == bytes(MIB)


def test_populated_arena_grows_by_what_a_value_needs_if_twice_as_much_is_not_there(
    shm: shmclient.Client,
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with shm.arena("growing", 16 * MIB, max_size=64 * MIB, names=100, populate=True) as arena:
        arena["value"] = bytes(8 * MIB)
        hole = (arena._hold("value").address + 28 * MIB) & -MIB  # type: ignore[union-attr]
        assert libc.munmap(ctypes.c_void_p(hole), ctypes.c_size_t(MIB)) == 0
        arena["other"] = bytes(9 * MIB)
        assert 17 * MIB < arena.size < 28 * MIB
        assert bytes(arena["other"]) == bytes(9 * MIB)


def test_arrays_of_changing_kinds_come_back(arena: Arena, other: shmclient.Client) -> None:
    numbers = np.arange(24)
    arrays = [
        numbers.astype("i4"),
        numbers.astype("f4"),
        numbers.astype("f4").reshape(4, 6),
        numbers.astype("f4").reshape(6, 4),
        numbers.astype("f4").reshape(4, 6).T,
        numbers.astype("f4").reshape(4, 6, 1),
        np.array(5.0),
        numbers[:1].astype("f8"),
        numbers[:1].astype("f8").reshape((1,) * 9),
        numbers[:1].astype("f8").reshape((1,) * 10),
        numbers[::2],
        np.array(["2026-11-26", "2026-11-27"], dtype="M8[D]"),
        np.zeros(0),
    ]
    names = [f"{index}" for index in range(len(arrays))]
    for _ in range(3):
        arena.put_many(zip(names, arrays, strict=True))
        for name, array in [*zip(names, arrays, strict=True)] * 2:
            arena[name] = array
            value = other.get(f"camera/{name}")
            assert (value.dtype, value.shape, value.tolist()) == (array.dtype, array.shape, array.tolist())


@pytest.mark.parametrize("name", [5, "\udc80", "", "a//b", "x" * 300])
def test_put_many_ends_at_a_name_that_is_none(arena: Arena, name: object) -> None:
    names = [*map(str, range(40)), name, *map(str, range(41, 80))]
    with pytest.raises((TypeError, UnicodeEncodeError, shmclient.InvalidArgument)):
        arena.put_many((each, b"1") for each in names)  # type: ignore[misc]
    assert sorted(map(int, arena)) == list(range(40))


def test_reader_of_many_names_keeps_nothing_of_each(arena: Arena, other: shmclient.Client) -> None:
    names = [f"obj/{index}" for index in range(500)]
    arena.put_many((name, np.zeros(4)) for name in names)
    held = other.get("camera/obj/0")
    gc.collect()
    before = sum(type(each) is weakref.ref for each in gc.get_objects())
    for name in names[1:]:
        other.get(f"camera/{name}")
    after = sum(type(each) is weakref.ref for each in gc.get_objects())
    assert after - before < 5
    assert other.get("camera/obj/0").base is held.base
