"""Arenas, their values and their clients end in any order; forks, threads, a host that is gone."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest

import shmclient
from arena_support import CAMERA_SIZE
from shmclient import Arena
from support import Machine, WatchedHost, in_child, wait_until


def test_values_outlive_arena_view_and_clients(host: WatchedHost) -> None:
    owner, reader = shmclient.connect(host.socket_path), shmclient.connect(host.socket_path)
    arena = owner.arena("camera", CAMERA_SIZE)
    arena["x"] = np.arange(1000)
    view = reader.open_arena("camera")
    values = [reader.get("camera/x"), view["x"], arena["x"], reader.open("camera/x")]
    arena.close()
    owner.close()
    view.close()
    reader.close()
    del arena, view, owner, reader
    gc.collect()
    assert [int(np.sum(getattr(value, "array", value))) for value in values] == [499500] * 4
    values.clear()
    wait_until(lambda: host.counts()["links"] == 0)


def test_letting_go_gives_the_hold_back(arena: Arena, other: shmclient.Client) -> None:
    arena["x"] = np.zeros(10)
    value = other.get("camera/x")
    gone = weakref.ref(value.base)
    row = value[2:5]
    del value
    assert row.sum() == 0
    del row
    assert gone() is None


def test_memory_goes_with_the_last_value_of_a_closed_arena(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    arena = shm.arena("camera", CAMERA_SIZE, keep=False)
    arena["x"] = np.ones(10)
    value = arena["x"]
    arena.close()
    wait_until(lambda: not shm.exists("camera"))
    assert (value.sum(), host.counts()["leases"]) == (10, 1)
    del value
    wait_until(lambda: host.is_back_at(before))
    assert repr(arena) == "<Arena 'camera', closed>"


def test_closed_arena_refuses(arena: Arena, other: shmclient.Client) -> None:
    arena["x"] = b"1"
    arena.close()
    arena.close()
    for write in (lambda: arena.put("x", b"2"), lambda: arena.remove("x"), lambda: arena.grow(CAMERA_SIZE)):
        with pytest.raises(shmclient.Closed, match="the arena 'camera' is closed"):
            write()
    assert bytes(other.get("camera/x")) == b"1"  # kept


def test_arena_that_is_not_kept_goes_with_its_owner(shm: shmclient.Client, other: shmclient.Client) -> None:
    arena = shm.arena("brief", CAMERA_SIZE, keep=False)
    arena["x"] = b"1"
    value = other.get("brief/x")
    arena.close()
    wait_until(lambda: not other.exists("brief"))
    with pytest.raises(shmclient.RegionNotFound):
        other.get("brief/x")
    assert bytes(value) == b"1"


def test_readers_follow_to_the_next_arena(shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.arena("camera", CAMERA_SIZE) as first:
        first["x"] = b"first"
        view = other.open_arena("camera")
        value = other.get("camera/x")
        with shm.arena("camera", CAMERA_SIZE) as second:
            second["x"] = b"second"
            assert (bytes(other.get("camera/x")), bytes(view["x"])) == (b"second", b"second")
            first["x"] = b"nobody sees this"
            assert (bytes(other.get("camera/x")), bytes(value)) == (b"second", b"first")


def test_name_is_a_region_then_an_arena_then_a_region(shm: shmclient.Client, other: shmclient.Client) -> None:
    shm.put("name", b"region").close()
    assert bytes(other.get("name")) == b"region"
    with shm.arena("name", CAMERA_SIZE) as arena:
        arena["x"] = b"arena"
        assert bytes(other.get("name/x")) == b"arena"
        with pytest.raises(shmclient.InvalidArgument, match="use open_arena"):
            other.get("name")
    shm.put("name", b"again").close()
    assert bytes(other.get("name")) == b"again"
    with pytest.raises(shmclient.RegionNotFound):
        other.get("name/x")


def test_neither_side_is_used_by_a_forked_child(
    arena: Arena, other: shmclient.Client, host: WatchedHost
) -> None:
    arena["x"] = b"1"
    view = other.open_arena("camera")
    value = view["x"]

    def use() -> None:
        with pytest.raises(shmclient.InvalidArgument, match="forked"):
            arena["x"] = b"2"
        with pytest.raises(shmclient.InvalidArgument, match="forked"):
            view["x"]
        assert bytes(other.get("camera/x")) == b"1"  # by a connection of its own

    assert in_child(use) == 0
    assert (bytes(value), bytes(other.get("camera/x"))) == (b"1", b"1")
    arena["x"] = b"3"
    assert bytes(other.get("camera/x")) == b"3"


def _write(arena: Arena, name: str, stop: threading.Event) -> None:
    count = 0
    while not stop.is_set():
        count += 1
        arena[name] = np.full(1000 + count % 7 * 10_000, count)


def _read(client: shmclient.Client, name: str, stop: threading.Event) -> None:
    held: list[tuple[Any, float]] = []
    while not stop.is_set():
        value = client.get(f"camera/{name}")
        held.append((value, value[0]))
        if len(held) > 5:
            old, first = held.pop(0)
            assert (old == first).all()


def test_threads_of_owner_and_reader(shm: shmclient.Client, other: shmclient.Client) -> None:
    """What 8 threads write is read whole by 8 others, who hold some values for a while."""
    stop = threading.Event()
    names = [f"t{number}" for number in range(8)]
    arena = shm.arena("camera", 64 << 20)
    arena.put_many(dict.fromkeys(names, np.zeros(1000)))
    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(_write, arena, name, stop) for name in names]
        futures += [pool.submit(_read, other, name, stop) for name in names]
        wait(futures, timeout=1, return_when=FIRST_EXCEPTION)
        stop.set()
    for future in futures:
        future.result()


def test_reading_and_writing_go_on_without_a_host(machine: Machine) -> None:
    owner, reader = shmclient.connect(machine.path), shmclient.connect(machine.path)
    arena = owner.arena("camera", CAMERA_SIZE)
    arena["x"] = b"0"
    view = reader.open_arena("camera")
    assert bytes(reader.get("camera/x")) == b"0"
    machine.kill()
    for number in range(200):
        arena["x"] = b"%d" % number
        assert (bytes(view["x"]), bytes(reader.get("camera/x"))) == (b"%d" % number, b"%d" % number)
    with pytest.raises(shmclient.HostGone):
        owner.arena("other", CAMERA_SIZE)
    arena.close()
    owner.close()
    reader.close()


def test_everything_is_given_back(host: WatchedHost) -> None:
    before = host.counts()
    for _ in range(3):
        with (
            shmclient.connect(host.socket_path) as owner,
            shmclient.connect(host.socket_path) as reader,
            owner.arena("camera", CAMERA_SIZE, keep=False) as arena,
        ):
            arena["x"] = np.zeros(1000)
            assert reader.get("camera/x").sum() == 0
            assert len(reader.open_arena("camera")) == 1
        gc.collect()
    wait_until(lambda: host.is_back_at(before))
