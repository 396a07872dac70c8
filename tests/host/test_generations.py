"""Generations never go back: for a name that comes again, nor over restarts of the host."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_registry import OWNER, World

import shmclient
from shmhost.core.generations import BLOCK, Generations
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.machine.socket_file import Lock
from shmprotocol.wire.names import MAX_GENERATION
from support import Machine, watched_host

NAMES = st.sampled_from("abc")
KINDS = st.sampled_from(["create", "publish", "abort", "unlink", "restart"])
STEPS = st.lists(st.tuples(KINDS, NAMES), max_size=60)


class Disk:
    """What a host stores, and its next start reads."""

    def __init__(self) -> None:
        self.ceiling = 0

    def store(self, ceiling: int) -> None:
        assert ceiling > self.ceiling
        self.ceiling = ceiling

    def start(self) -> World:
        world = World()
        world.registry.generations = Generations(self.store)
        world.registry.generations.resume(self.ceiling)
        return world


@given(STEPS)
def test_generation_of_a_name_only_grows(steps: list[tuple[str, str]]) -> None:
    disk = Disk()
    world = disk.start()
    pending: dict[str, Region] = {}
    highest: dict[str, int] = {}
    for step, name in steps:
        registry = world.registry
        if step == "restart":  # as by SIGKILL: nothing is unlinked
            world, pending = disk.start(), {}
        elif step == "create" and name not in pending:
            pending[name] = world.create(name)
        elif step == "publish" and name in pending:
            region = pending.pop(name)
            region.generation = registry.next_generation(region)
            registry.publish(region)
            assert highest.get(name, 0) < region.generation <= disk.ceiling
            highest[name] = region.generation
        elif step == "abort" and name in pending:
            registry.abort(pending.pop(name))
        elif step == "unlink" and name in registry.current:
            registry.unlink(name, OWNER)


def test_fresh_host_begins_at_1_and_counts_up() -> None:
    world = World()
    assert [world.publish("x").generation for _ in range(3)] == [1, 2, 3]
    assert world.publish("y").generation == 1


def test_ceiling_is_stored_once_a_block() -> None:
    stored: list[int] = []
    generations = Generations(stored.append)
    number = 0
    for _ in range(2 * BLOCK + 1):
        number = generations.next(number or None)
    assert stored == [BLOCK, 2 * BLOCK, 3 * BLOCK]


# --- the file


def taken(path: Path) -> Lock:
    lock = Lock(str(path), "cure")
    lock.take()
    return lock


def test_lock_file_keeps_what_was_stored_last(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    for ceiling in (1000, 2000, 3000, MAX_GENERATION):
        lock = taken(path)
        lock.count()
        lock.store_ceiling(ceiling)
        lock.release()
        lock = taken(path)
        assert (lock.ceiling, lock.starts > 0) == (ceiling, True)
        lock.release()


def ceiling_of(path: Path) -> int | None:
    lock = taken(path)
    lock.release()
    return lock.ceiling


def stored(path: Path, *ceilings: int) -> bytearray:
    lock = taken(path)
    lock.count()
    for ceiling in ceilings:
        lock.store_ceiling(ceiling)
    lock.release()
    return bytearray(Path(f"{path}.lock").read_bytes())


@pytest.mark.parametrize("length", range(31))
def test_torn_write_leaves_the_ceiling_that_was_in_force(length: int, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    before = stored(path, 1000, 2000)
    after = stored(path, 3000)
    torn = before[:21] + after[21 : 21 + length] + before[21 + length :]
    Path(f"{path}.lock").write_bytes(torn)
    assert ceiling_of(path) in ((2000, 3000) if length >= 19 else (2000,))


@pytest.mark.parametrize("records", [b"garbage", b"\0" * 60, b"%20d %08x\n" % (5000, 0), b"x" * 1000])
def test_damage_is_told_from_a_new_file(records: bytes, tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    assert ceiling_of(path) == 0
    Path(f"{path}.lock").write_bytes(b"%20d\n" % 3 + records)
    lock = taken(path)
    assert (lock.ceiling, lock.starts) == (None, 3)
    lock.release()
    assert stored(path, 4000)
    assert ceiling_of(path) == 4000


# --- real hosts


def test_generation_grows_when_host_is_killed_and_started_again(machine: Machine) -> None:
    generations = []
    for _ in range(3):
        with shmclient.connect(machine.path) as shm:
            generations += [shm.put("x", b"value").generation for _ in range(2)]
            shm.unlink("x")
            generations.append(shm.put("x", b"again").generation)
        machine.restart()
    assert generations == sorted(set(generations))
    assert generations[:3] == [1, 2, 3]


def test_damaged_file_makes_generations_go_on_far_above(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "h.sock"
    Path(f"{path}.lock").write_bytes(b"%20d\ngarbage" % 3)
    with watched_host(str(path)), shmclient.connect(str(path)) as shm:
        assert shm.put("x", b"value").generation > 10**9
    assert [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    with watched_host(str(path)), shmclient.connect(str(path)) as shm:
        assert shm.put("x", b"value").generation > 10**9 + BLOCK


def test_publishing_goes_on_when_nothing_can_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_lock: Lock, _ceiling: int) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Lock, "store_ceiling", full)
    monkeypatch.setattr("shmhost.core.generations.BLOCK", 1)
    with watched_host(str(tmp_path / "h.sock")) as host, shmclient.connect(host.socket_path) as shm:
        assert [shm.put("x", b"value").generation for _ in range(3)] == [1, 2, 3]
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1


def test_creation_ended_by_root_leaves_generations_alone() -> None:
    world = World()
    world.create("x")
    world.registry.end_creation("x", Peer(0, 0))
    assert world.publish("x").generation == 1
