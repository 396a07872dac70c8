"""Arenas of a host that was killed: owners write on, readers keep what they hold, and new ones come."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

import shmclient
from shmprotocol.native import builtins
from shmprotocol.wire.query import Query
from support import Machine, count_descriptors, in_child, wait_until

ROOM = 1 << 20  # bytes of an arena, in which some 15 values of 64 KiB fit
VALUE = 65_000
KILLS = 40 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 4


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    with shmclient.connect(machine.path) as client:
        yield client


def rewrite(arena: shmclient.Arena, times: int = 100) -> None:
    """Replace a value so often that all memory is used again and again."""
    for number in range(times):
        arena["x"] = bytes([number % 256]) * VALUE


def test_owner_uses_its_memory_again_and_never_what_readers_hold(
    machine: Machine, shm: shmclient.Client
) -> None:
    with (
        shm.arena("arena", size=ROOM) as arena,
        shmclient.connect(machine.path) as old,
        contextlib.ExitStack() as stack,
    ):
        arena["x"] = b"o" * VALUE
        held = [(b"o", old.get("arena/x"))]
        for count in range(3):
            machine.kill()
            rewrite(arena)  # without a host
            arena["x"] = bytes([200 + count]) * VALUE
            machine.start()
            new = stack.enter_context(shmclient.connect(machine.path))
            held.append((bytes([200 + count]), new.get("arena/x", wait=30)))
            held.append((bytes([200 + count]), old.get("arena/x")))
            rewrite(arena)
            for letter, value in held:
                assert bytes(value) == letter * VALUE
            assert bytes(new.get("arena/x")) == bytes(old.get("arena/x")) == bytes([99]) * VALUE


def test_arena_is_back_by_itself(machine: Machine, shm: shmclient.Client) -> None:
    with shm.arena("arena", size=ROOM, mode=0o640) as arena:
        arena["x"] = b"1"
        before = shm.stat("arena")
        for _ in range(2):
            machine.restart()
            with shmclient.connect(machine.path) as other:
                assert bytes(other.get("arena/x", wait=30)) == b"1"
            with shmclient.connect(machine.path) as other:
                wait_until(lambda other=other: other.stat("arena") == before)


def test_arena_of_an_owner_that_died_with_its_host_comes_back_from_a_reader(machine: Machine) -> None:
    ready, over = os.pipe(), os.pipe()

    def own() -> None:
        with shmclient.connect(machine.path) as shm, shm.arena("arena", size=ROOM) as arena:
            arena["x"] = b"1"
            os.write(ready[1], b"1")
            os.read(over[0], 1)

    codes: list[int] = []
    child = threading.Thread(target=lambda: codes.append(in_child(own)))
    child.start()
    os.read(ready[0], 1)
    with shmclient.connect(machine.path) as shm:
        value = shm.get("arena/x")
        machine.kill()
        os.write(over[1], b"1")
        child.join(30)
        machine.start()
        with shmclient.connect(machine.path) as other:
            assert bytes(other.get("arena/x", wait=30)) == bytes(value) == b"1"
            assert bytes(shm.get("arena/x")) == b"1"
            machine.restart()
            assert bytes(shm.get("arena/x")) == b"1"
    for descriptor in (*ready, *over):
        os.close(descriptor)


def test_grown_arena_grows_on(machine: Machine, shm: shmclient.Client) -> None:
    with shm.arena("arena", size=ROOM, max_size=64 * ROOM) as arena:
        arena["large"] = b"1" * 5 * ROOM
        machine.restart()
        with shmclient.connect(machine.path) as other:
            assert bytes(other.get("arena/large", wait=30)[-3:]) == b"111"
            arena["larger"] = b"2" * 20 * ROOM
            assert bytes(other.get("arena/larger")[-3:]) == b"222"
            assert other.stat("arena").capacity > 20 * ROOM


def test_several_arenas_of_several_clients_are_back(machine: Machine) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(shmclient.connect(machine.path)) for _ in range(3)]
        arenas = {}
        for number in range(6):
            name = f"arena{number}"
            arenas[name] = stack.enter_context(clients[number % 3].arena(name, size=ROOM, names=8))
            arenas[name]["x"] = b"%d" % number * VALUE
        held = [client.get(f"{name}/x") for client in clients for name in arenas]
        for _ in range(2):
            machine.restart()
            with shmclient.connect(machine.path) as other:
                for number, name in enumerate(arenas):
                    value = other.get(f"{name}/x", wait=30)
                    assert bytes(value[:1]) == b"%d" % number
                    for _ in range(20):
                        arenas[name]["x"] = b"%d" % number * VALUE
        assert {bytes(value) for value in held} == {b"%d" % number * VALUE for number in range(6)}


def test_closed_clients_keep_their_values_and_arenas(machine: Machine, shm: shmclient.Client) -> None:
    owning = shmclient.connect(machine.path)
    with owning.arena("arena", size=ROOM) as arena:
        owning.close()
        arena["x"] = b"1" * VALUE
        reading = shmclient.connect(machine.path)
        value = reading.get("arena/x")
        reading.close()
        for _ in range(2):
            machine.restart()
            new = shm.get("arena/x", wait=30)
            rewrite(arena)
            assert bytes(value) == b"1" * VALUE
            del new
        del value
        rewrite(arena)


def test_child_of_an_owner_and_reader_has_nothing_to_hand_back(
    machine: Machine, shm: shmclient.Client
) -> None:
    with shm.arena("arena", size=ROOM) as arena, shmclient.connect(machine.path) as other:
        arena["x"] = b"1" * VALUE
        value = other.get("arena/x")
        done, over = os.pipe(), os.pipe()

        def wait() -> None:
            os.write(done[1], b"1")
            os.read(over[0], 1)
            assert bytes(shm.get("arena/x", wait=30)) == bytes([99]) * VALUE

        codes: list[int] = []
        child = threading.Thread(target=lambda: codes.append(in_child(wait)))
        child.start()
        os.read(done[0], 1)
        machine.restart()
        with shmclient.connect(machine.path) as new:
            second = new.get("arena/x", wait=30)
            rewrite(arena)
            assert bytes(value) == bytes(second) == b"1" * VALUE
        os.write(over[1], b"1")
        child.join(60)
        assert codes == [0]
        for descriptor in (*done, *over):
            os.close(descriptor)


def test_name_is_free_when_an_owner_without_keep_dies_with_its_host(machine: Machine) -> None:
    ready, over = os.pipe(), os.pipe()

    def own() -> None:
        with shmclient.connect(machine.path) as shm, shm.arena("arena", size=ROOM, keep=False) as arena:
            arena["x"] = b"1"
            os.write(ready[1], b"1")
            os.read(over[0], 1)

    child = threading.Thread(target=in_child, args=(own,))
    child.start()
    os.read(ready[0], 1)
    with shmclient.connect(machine.path) as shm:
        value = shm.get("arena/x")
        machine.kill()
        os.write(over[1], b"1")
        child.join(30)
        machine.start()
        assert not shm.exists("arena")
        assert bytes(value) == b"1"
        with shm.arena("arena", size=ROOM) as arena:
            arena["x"] = b"2"
            assert bytes(shm.get("arena/x")) == b"2"
    for descriptor in (*ready, *over):
        os.close(descriptor)


def checked(number: int) -> bytes:
    """A value of 4 KiB and more that says itself whether it is whole."""
    body = number.to_bytes(8, "little") * (500 + number % 1500)
    return zlib.crc32(body).to_bytes(8, "little") + body


def is_whole(value: Any) -> bool:
    return int.from_bytes(value[:8], "little") == zlib.crc32(value[8:])


class Writer:
    """An owner that replaces values without a pause, in memory that is used again and again."""

    def __init__(self, path: str) -> None:
        self._client = shmclient.connect(path)
        self.arena = self._client.arena("arena", size=ROOM, names=8)
        self.count = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        while not self._is_over.is_set():
            self.count += 1
            with contextlib.suppress(shmclient.ArenaFull, shmclient.HostGone):  # till it knows all readers
                self.arena[f"v{self.count % 4}"] = checked(self.count)

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.arena.close()
        self._client.close()


def test_owner_and_readers_over_hosts_that_are_killed_at_random(machine: Machine) -> None:
    """No value that is held changes, none is torn, and each host lets new readers in."""
    choose = random.Random(1)
    writer = Writer(machine.path)
    with contextlib.closing(writer), contextlib.ExitStack() as stack:
        readers = [stack.enter_context(shmclient.connect(machine.path)) for _ in range(3)]
        held: list[tuple[Any, bytes]] = []
        for _ in range(KILLS):
            new = stack.enter_context(shmclient.connect(machine.path, wait=30))
            readers = [*readers[-4:], new]
            for number in range(40):
                value = choose.choice(readers).get(f"arena/v{number % 4}", wait=30)
                assert is_whole(value)
                held.append((value, bytes(value)))
                if len(held) > 20:
                    del held[choose.randrange(len(held))]
                assert all(bytes(view) == copy for view, copy in held)
            machine.kill()
            count = writer.count
            wait_until(lambda count=count: writer.count > count + choose.randrange(500))
            assert all(bytes(view) == copy for view, copy in held)
            machine.start()
        value = new = None
        held.clear()
        count = writer.count
        wait_until(lambda: writer.count > count + 500)  # it has room again


def test_nothing_is_left_over_after_hosts_that_were_killed(machine: Machine) -> None:
    def use() -> None:
        with shmclient.connect(machine.path) as shm, shmclient.connect(machine.path) as other:
            with shm.arena("arena", size=ROOM, replace=True) as arena:
                arena["x"] = b"1" * VALUE
                value = other.get("arena/x")
                machine.restart()
                arena["x"] = b"2" * VALUE
                assert bytes(shm.get("arena/x", wait=30)) == b"2" * VALUE
                assert bytes(other.get("arena/x", wait=30)) == b"2" * VALUE
                assert bytes(value) == b"1" * VALUE
                del value
            shm.unlink("arena")

    def descriptors_left() -> int:
        gc.collect()
        return builtins.rest_keeper() or count_descriptors()

    use()
    wait_until(lambda: gc.collect() >= 0 and builtins.rest_keeper() == 0)
    before = descriptors_left()
    for _ in range(2):
        use()
    wait_until(lambda: descriptors_left() == before)
    with Query(machine.path) as query:
        wait_until(lambda: query.measure().ledgers == 0)
        assert (query.measure().used, query.measure().arenas) == (0, 0)
