"""Arenas in the store of a service manager: who finds them after a kill of their host, and who waits."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import shmclient
from arena_support import SIZE, ArenaPeer, stat
from returning_support import is_open
from service_support import Service, service
from shmhost.core.lent import LARGE
from shmhost.core.stored import entry_of
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, State
from support import wait_until

ENDS = pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])
ROOM = 1 << 20  # bytes of an arena, in which some 15 values of 64 KiB fit
VALUE = 65_000


def settle(each: Service) -> None:
    """Return when the store has all that the host has, and nothing else."""
    with shmclient.connect(each.path) as shm:
        entries = sorted(entry_of(info.number) for info in shm.list())
    assert entries
    wait_until(lambda: each.names() == entries)


def leave(each: Service, **options: int) -> shmclient.RegionInfo:
    """Make an arena whose owner ends, and that nobody has."""
    with (
        shmclient.connect(each.path) as shm,
        shm.arena("camera", size=ROOM, mode=0o640, **options) as arena,
    ):
        arena["front"] = np.arange(1000)
        arena.remove("front")
        arena["front"] = np.arange(1000, 2000)
    with ArenaPeer(each.path) as peer:
        wait_until(lambda: not stat(peer).arena.has_owner and not stat(peer).leases)
    with shmclient.connect(each.path) as shm:
        return shm.stat("camera")


class Owner:
    """Another process, which owns the arena, says nothing to a next host, and does a step at its end."""

    def __init__(self, each: Service, *, keep: bool = True) -> None:
        ready, self._over = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                signal.alarm(120)
                peer = ArenaPeer(each.path)
                peer.publish("camera", SIZE, mode=0o644, keep=keep)
                os.write(ready[1], b"1")
                os.read(self._over[0], 1)
            finally:
                os._exit(0)
        os.close(ready[1])
        assert os.read(ready[0], 1) == b"1"
        os.close(ready[0])

    def end(self) -> None:
        os.write(self._over[1], b"1")
        os.waitpid(self._pid, 0)
        os.close(self._over[0])
        os.close(self._over[1])


@ENDS
def test_arena_that_nobody_has_outlives_its_host(end: int, manager: Service) -> None:
    before = leave(manager)
    settle(manager)
    for _ in range(2):
        manager.restart(end)
        with shmclient.connect(manager.path) as shm:
            assert shm.stat("camera") == before
            assert shm.get("camera/front").tolist() == list(range(1000, 2000))
        settle(manager)
    with shmclient.connect(manager.path) as shm, shm.arena("camera", size=ROOM) as arena:
        arena["front"] = b"next"
        assert bytes(shm.get("camera/front")) == b"next"
        assert shm.stat("camera").generation > before.generation
        settle(manager)
    with shmclient.connect(manager.path) as shm:
        shm.unlink("camera")
    wait_until(lambda: manager.names() == [])


@ENDS
def test_owner_that_lives_writes_on_and_never_what_is_held(end: int, manager: Service) -> None:
    with (
        shmclient.connect(manager.path) as shm,
        shm.arena("camera", size=ROOM, max_size=2 * ROOM, names=8) as arena,
    ):
        arena["front"] = b"1" * VALUE
        held = []
        for number in range(2, 5):
            settle(manager)
            manager.restart(end)
            with shmclient.connect(manager.path) as new:
                held.append((number - 1, new.get("camera/front", wait=30)))
                for _ in range(100):
                    arena["front"] = b"%d" % number * VALUE
                for count, value in held:
                    assert bytes(value) == b"%d" % count * VALUE
                assert bytes(new.get("camera/front")) == b"%d" % number * VALUE


def test_nobody_joins_while_an_owner_lives_that_does_not_come_back(manager: Service) -> None:
    owner = Owner(manager)
    settle(manager)
    for _ in range(2):
        manager.restart()
        with shmclient.connect(manager.path) as shm:
            assert shm.stat("camera").leases == 1
        assert not is_open(manager.path)
    owner.end()
    wait_until(lambda: is_open(manager.path))
    settle(manager)
    manager.restart()
    assert is_open(manager.path)


def test_arena_is_there_when_its_owner_has_ended_with_its_host(manager: Service) -> None:
    owner = Owner(manager)
    settle(manager)
    manager.end()
    owner.end()
    manager.start()
    assert is_open(manager.path)


@pytest.mark.parametrize("is_late", [False, True])
def test_arena_that_is_not_kept_goes_with_its_owner(is_late: bool, manager: Service) -> None:
    owner = Owner(manager, keep=False)
    settle(manager)
    manager.end()
    if is_late:
        manager.start()
        owner.end()
    else:
        owner.end()
        manager.start()
    wait_until(lambda: manager.names() == [])
    with shmclient.connect(manager.path) as shm:
        assert not shm.exists("camera")
        wait_until(lambda: shm.list() == [])


def test_watch_hears_when_an_arena_goes_with_its_owner(manager: Service) -> None:
    owner = Owner(manager, keep=False)
    settle(manager)
    manager.restart()
    with ArenaPeer(manager.path) as peer:
        assert peer.ask(m.Watch(7, ""))[0] == m.Done(7)
        owner.end()
        event, _ = peer.receive()
        assert isinstance(event, m.Event)
        assert (event.kind, event.info.name) == (ChangeKind.UNLINKED, "camera")


def test_unlinked_arena_leaves_the_store_and_keeps_its_addresses(manager: Service) -> None:
    owner = Owner(manager)
    settle(manager)
    manager.restart()
    with shmclient.connect(manager.path) as shm:
        shm.unlink("camera")
        wait_until(lambda: manager.names() == [])
        assert unlinked(manager) == 1
        owner.end()
        wait_until(lambda: unlinked(manager) == 0)


def unlinked(each: Service) -> int:
    """Count the regions that are unlinked and not freed."""
    with ArenaPeer(each.path) as peer:
        reply, _ = peer.ask(m.Measure(9))
        assert isinstance(reply, m.Measured)
        return sum(total.regions for total in reply.totals if total.state == State.UNLINKED)


def test_takeover_and_kill_in_turn(manager: Service) -> None:
    before = leave(manager)
    settle(manager)
    for step in (manager.reload, manager.restart, manager.reload):
        step()
        with shmclient.connect(manager.path) as shm:
            assert shm.stat("camera") == before
        settle(manager)


def test_copy_of_an_arena_is_refused(manager: Service) -> None:
    leave(manager)
    settle(manager)
    manager.end()
    ((name, descriptor),) = manager.entries
    copy = os.memfd_create("shmhost:camera", os.MFD_ALLOW_SEALING)
    os.write(copy, os.pread(descriptor, ROOM, 0))
    fcntl.fcntl(copy, fcntl.F_ADD_SEALS, fcntl.fcntl(descriptor, fcntl.F_GET_SEALS))
    manager.entries.clear()
    manager.add(name, copy)
    os.close(copy)
    os.close(descriptor)
    manager.start()
    wait_until(lambda: manager.names() == [])
    assert not is_open(manager.path)


def test_host_frees_an_arena_that_has_grown_after_the_manager_has_closed_it(manager: Service) -> None:
    with shmclient.connect(manager.path) as shm:
        arena = shm.arena("camera", size=LARGE // 2, max_size=2 * LARGE, names=8)
        settle(manager)
        arena.grow(2 * LARGE)
        arena.close()
        inode = os.fstat(manager.entries[0][1]).st_ino
        manager.is_reading.clear()
        shm.unlink("camera")
        wait_until(lambda: unlinked(manager) == 0)
        assert inode in manager.inodes()
    manager.is_reading.set()
    wait_until(lambda: inode not in manager.inodes())
    wait_until(lambda: manager.names() == [])


@pytest.mark.parametrize(("room", "has_place"), [(1, False), (2, True)])
def test_store_has_exactly_its_room_for_arenas(room: int, has_place: bool, folder: Path) -> None:
    with service(folder, room) as each:
        each.start()
        with shmclient.connect(each.path) as shm:
            shm.put("x", b"1").close()
        wait_until(lambda: len(each.names()) == 1)
        leave(each)
        if has_place:
            settle(each)
        else:
            wait_until(lambda: "has no place" in each.read_log())
        each.restart()
        assert is_open(each.path) is has_place
