"""Followed names with the arrays of a library: nothing is lost between the value and its arrays."""

from __future__ import annotations

import gc
from typing import Any

import anyio
import numpy as np
import pytest

import shmclient
import shmclient.aio
from shmclient._codecs import libraries
from support import Machine, WatchedHost, put_values, wait_until


class Tensor:
    """An array that must be writable, as torch's are, for tests without torch."""

    def __init__(self, array: Any) -> None:
        assert array.flags.writeable
        self.array = array


@pytest.fixture
def tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `as_="torch"` give these."""
    monkeypatch.setitem(libraries._MAKERS, "torch", Tensor)


def test_follow_gives_arrays_of_a_library(host: WatchedHost, shm: shmclient.Client, tensors: None) -> None:
    shm.put("r", np.arange(3))
    with shmclient.connect(host.socket_path) as reader, reader.follow("r", as_="torch") as values:
        first = next(values)
        first.array[0] = 7  # for this process alone
        shm.put("r", {"a": np.arange(4)})
        assert (first.array.tolist(), next(values)["a"].array.tolist()) == ([7, 1, 2], [0, 1, 2, 3])
        shm.put("r", b"bytes")
        assert bytes(next(values)) == b"bytes"
    del first, reader, values
    gc.collect()
    wait_until(lambda: host.counts()["regions"] == 1)


def test_follow_gives_them_from_an_arena(
    shm: shmclient.Client, other: shmclient.Client, tensors: None
) -> None:
    with shm.arena("a", size=1 << 20) as arena, other.follow("a/r", as_="torch") as values:
        for number in range(3):
            arena["r"] = np.full(3, number)
            value = next(values)
            value.array[0] = 9
            assert (value.array.tolist(), other.get("a/r")[0]) == ([9, number, number], number)
        del arena["r"]
        arena["r"] = "text"
        assert next(values) == "text"


@pytest.mark.anyio
async def test_async_follow_gives_them(host: WatchedHost, anyio_backend: str, tensors: None) -> None:
    async with shmclient.aio.AsyncClient(host.socket_path) as ashm:
        arena = await ashm.arena("a", size=1 << 20)
        arena["r"] = np.arange(2)
        await ashm.put("r", np.arange(2))
        for name in ("r", "a/r"):
            async with ashm.follow(name, as_="torch") as values:
                with anyio.fail_after(30):
                    assert (await anext(values)).array.tolist() == [0, 1]
        arena.close()


def test_value_whose_arrays_were_not_given_comes_again(
    shm: shmclient.Client, other: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(array: Any) -> Any:
        raise TypeError("no such dtype")

    shm.put("r", np.arange(3))
    monkeypatch.setitem(libraries._MAKERS, "torch", fail)
    with other.follow("r", as_="torch") as values:
        with pytest.raises(TypeError, match="no such dtype"):
            next(values)
        monkeypatch.setitem(libraries._MAKERS, "torch", Tensor)
        assert next(values).array.tolist() == [0, 1, 2]


def test_follow_gives_each_value_once_over_a_killed_host(machine: Machine, tensors: None) -> None:
    put_values(machine.path, r=np.arange(1))
    with shmclient.connect(machine.path) as shm, shm.follow("r", as_="torch") as values:
        assert next(values).array.tolist() == [0]
        machine.kill()
        machine.start()
        put_values(machine.path, r=np.arange(2))
        assert next(values).array.tolist() == [0, 1]


def test_follow_goes_on_in_an_arena_without_a_host(machine: Machine, tensors: None) -> None:
    with shmclient.connect(machine.path) as owner, shmclient.connect(machine.path) as shm:
        arena = owner.arena("a", size=1 << 20)
        arena["r"] = np.arange(1)
        with shm.follow("a/r", as_="torch") as values:
            assert next(values).array.tolist() == [0]
            machine.kill()
            arena["r"] = np.arange(2)
            assert next(values).array.tolist() == [0, 1]
        machine.start()


def test_unknown_library_is_refused_at_once(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="not 'tensorflow'"):
        shm.follow("r", as_="tensorflow")  # type: ignore[arg-type]


def test_follow_as_numpy_gives_what_get_does(shm: shmclient.Client) -> None:
    shm.put("r", np.arange(3))
    with shm.follow("r", as_="numpy") as values:
        assert np.shares_memory(next(values), shm.get("r"))
