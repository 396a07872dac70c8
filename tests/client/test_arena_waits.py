"""Waiting for values of arenas by the sync client: `wait`, `get`, `follow` and `changes`."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import shmclient
from arena_support import CAMERA_SIZE
from shmclient import Arena
from shmclient._arenas.reader import Reader
from shmprotocol.native.builtins import ArenaReader
from support import WatchedHost, wait_until


def test_wait_is_woken_by_the_value(arena: Arena, other: shmclient.Client) -> None:
    view = other.open_arena("camera")
    seen: list[bytes] = []

    def wait() -> None:
        generation = 0
        while seen[-1:] != [b"end"]:
            value = view.wait("x", after=generation, wait=30)
            generation = value.generation
            seen.append(bytes(value.data))

    thread = threading.Thread(target=wait)
    thread.start()
    for number in range(100):
        arena["x"] = b"%d" % number
        wait_until(lambda number=number: seen[-1:] == [b"%d" % number])  # type: ignore[misc]
    arena["x"] = b"end"
    thread.join()
    assert seen == [*(b"%d" % number for number in range(100)), b"end"]


def test_wait_times_out(arena: Arena, other: shmclient.Client) -> None:
    view = other.open_arena("camera")
    with pytest.raises(shmclient.WaitTimeout, match=r"'x' in the arena 'camera' .* within 0.02 s"):
        view.wait("x", wait=0.02)
    generation = arena.put("x", b"1")
    with pytest.raises(shmclient.WaitTimeout):
        view.wait("x", after=generation, wait=0.02)


def test_get_waits_for_names_and_generations_of_arenas(arena: Arena, other: shmclient.Client) -> None:
    timer = threading.Timer(0.05, lambda: arena.put("late", b"1"))
    timer.start()
    assert bytes(other.get("camera/late", wait=30)) == b"1"
    timer.join()
    generation = other.open("camera/late").generation
    timer = threading.Timer(0.05, lambda: arena.put("late", b"2"))
    timer.start()
    assert bytes(other.get("camera/late", after=generation, wait=30)) == b"2"
    timer.join()
    with pytest.raises(shmclient.RegionNotFound):
        other.get("camera/late", after=1 << 40)
    with pytest.raises(shmclient.WaitTimeout):
        other.get("camera/never", wait=0.02)


def test_get_waits_for_an_arena(shm: shmclient.Client, other: shmclient.Client) -> None:
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(bytes(other.get("later/x", wait=30))))
    thread.start()
    with shm.arena("later", CAMERA_SIZE) as arena:
        arena["x"] = b"1"
        thread.join()
    assert got == [b"1"]


def test_follow_yields_each_newest_value(arena: Arena, other: shmclient.Client) -> None:
    arena["x"] = b"1"
    follow = other.follow("camera/x")
    assert bytes(next(follow)) == b"1"
    arena["x"] = b"2"
    arena["x"] = b"3"
    assert bytes(next(follow)) == b"3"
    timer = threading.Timer(0.05, lambda: arena.put("x", b"4"))
    timer.start()
    assert bytes(next(follow)) == b"4"
    timer.join()
    arena.remove("x")
    timer = threading.Timer(0.05, lambda: arena.put("x", b"5"))
    timer.start()
    assert bytes(next(follow)) == b"5"
    timer.join()
    timer = threading.Timer(0.05, follow.close)
    timer.start()
    assert list(follow) == []
    timer.join()  # it keeps the arena mapped


def test_many_names_are_waited_for_in_their_arenas(
    shm: shmclient.Client, arena: Arena, other: shmclient.Client
) -> None:
    arena["x"] = b"1"
    shm.put("region", b"2").close()
    names = ["camera/x", "region", "camera/y", "later/z"]
    with pytest.raises(shmclient.WaitTimeout, match="'y' in the arena 'camera'"):
        other.get_many(names[:3], wait=0.02)
    with pytest.raises(shmclient.RegionNotFound, match="has no value 'y'"):
        other.get_many(names[:3])
    for many in (other.get_many, other.open_many):
        got: list[Any] = []
        thread = threading.Thread(target=lambda many=many, got=got: got.extend(many(names, wait=30)))
        thread.start()
        with shm.arena("later", CAMERA_SIZE, keep=False) as later:
            arena["y"] = b"3"
            later["z"] = b"4"
            thread.join()
        assert [bytes(getattr(value, "data", value)) for value in got] == [b"1", b"2", b"3", b"4"]
        arena.remove("y")


def test_follow_yields_a_value_once_that_overtakes_the_look(
    arena: Arena, other: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = iter([b"2"])

    def get(reader: Reader, name: str, missing: object) -> Any:
        for value in newer:
            arena["x"] = value  # between the look at the name's word and at its value
        return ArenaReader._get(reader, name, missing)

    arena["x"] = b"1"
    monkeypatch.setattr(Reader, "_get", get)
    follow = other.follow("camera/x", wait=30)
    assert bytes(next(follow)) == b"2"
    timer = threading.Timer(0.05, arena.put, ("x", b"3"))
    timer.start()
    assert bytes(next(follow)) == b"3"
    timer.join()


def test_follow_waits_for_an_arena_that_does_not_exist_yet(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    follow = other.follow("camera/x", wait=30)
    watch = other.watch("camera/")

    def publish() -> None:
        with shm.arena("camera", CAMERA_SIZE, names=100) as arena:
            arena["x"] = b"1"

    timer = threading.Timer(0.05, publish)
    timer.start()
    assert bytes(next(follow)) == b"1"
    timer.join()
    shm.unlink("camera")
    shm.put("camera/y", b"a region")
    assert next(watch).info.name == "camera/y"  # of the arena itself it says nothing


def test_follow_waits_for_a_name_that_its_arena_does_not_have_yet(
    arena: Arena, other: shmclient.Client
) -> None:
    arena["y"] = b"another"
    follow = other.follow("camera/x", wait=30)
    timer = threading.Timer(0.05, lambda: arena.put("x", b"1"))
    timer.start()
    assert bytes(next(follow)) == b"1"
    timer.join()
    with pytest.raises(shmclient.WaitTimeout, match="'camera/z' did not appear within"):
        next(other.follow("camera/z", wait=0.02))
    with pytest.raises(shmclient.RegionNotFound):
        next(other.follow("camera/z", wait=None))
    brief = other.follow("camera/x", wait=0.02)
    assert bytes(next(brief)) == b"1"
    timer = threading.Timer(0.1, lambda: arena.put("x", b"2"))
    timer.start()
    assert bytes(next(brief)) == b"2"  # it is there all the time
    timer.join()
    arena.remove("x")
    with pytest.raises(shmclient.WaitTimeout):
        next(brief)


def test_changes_tell_of_each_name(arena: Arena, other: shmclient.Client) -> None:
    view = other.open_arena("camera")
    arena.update({"a": b"1", "b": b"2"})
    arena.remove("a")
    changes = view.changes(since=0, wait=0.05)
    assert [(change.name, change.is_removed) for change in changes] == [("b", False), ("a", True)]
    later = view.changes(wait=30)
    timer = threading.Timer(0.05, lambda: arena.put("c", b"3"))
    timer.start()
    assert next(later).name == "c"
    timer.join()
    timer = threading.Timer(0.05, view.close)
    timer.start()
    assert list(later) == []
    timer.join()  # it keeps the arena mapped


def test_changes_go_on_in_the_next_arena_and_end_while_there_is_none(
    host: WatchedHost, shm: shmclient.Client, other: shmclient.Client
) -> None:
    first = shm.arena("camera", CAMERA_SIZE, keep=False)
    first["a"] = b"1"
    view = other.open_arena("camera")
    changes = view.changes(since=0, wait=30)
    assert next(changes).name == "a"
    first.close()
    wait_until(lambda: not other.exists("camera"))
    with shm.arena("camera", CAMERA_SIZE, keep=False) as second:
        timer = threading.Timer(0.05, lambda: second.put("b", b"2"))
        timer.start()
        assert next(changes).name == "b"
        timer.join()
    wait_until(lambda: not other.exists("camera"))
    rest: list[object] = []
    thread = threading.Thread(target=lambda: rest.extend(changes))
    thread.start()
    wait_until(lambda: host.counts()["listeners"] == 1)
    view.close()
    thread.join(20)
    assert (thread.is_alive(), rest) == (False, [])


def test_wait_for_a_generation_goes_on_in_the_next_arena(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    with shm.arena("camera", CAMERA_SIZE) as first:
        generation = [first.put("x", b"%d" % number) for number in range(10)][-1]
        view = other.open_arena("camera")
        got: list[bytes] = []
        threads = [
            threading.Thread(
                target=lambda: got.append(bytes(view.wait("x", after=generation, wait=30).data))
            ),
            threading.Thread(
                target=lambda: got.append(bytes(other.get("camera/x", after=generation, wait=30)))
            ),
        ]
        for thread in threads:
            thread.start()
        with shm.arena("camera", CAMERA_SIZE) as second:
            second["x"] = b"second"
            for thread in threads:
                thread.join()
    assert got == [b"second"] * 2
