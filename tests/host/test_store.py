"""Names that nobody holds outlive a host, by its service manager: real hosts, a stand-in for systemd."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import shmclient
from foreign import KINDS
from manager_support import scraped
from service_support import Service, service
from shmhost.core.stored import entry_of
from shmhost.serving.store import PAUSE_S
from support import as_nobody, needs_root, wait_until

ENDS = pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])


@pytest.fixture(params=[True, False], ids=["activated", "own-socket"])
def systemd(request: pytest.FixtureRequest, folder: Path) -> Iterator[Service]:
    with service(folder, is_activated=request.param) as each:
        each.start()
        yield each


def put(each: Service, **values: bytes) -> None:
    """Publish values that nobody holds."""
    with shmclient.connect(each.path) as shm:
        for name, value in values.items():
            shm.put(name, value).close()


def regions(each: Service) -> dict[str, tuple[shmclient.RegionInfo, bytes]]:
    """Return all there is to know of each region but its leases, and its value."""
    with shmclient.connect(each.path) as shm:
        return {info.name: (replace(info, leases=0), bytes(shm.get(info.name))) for info in shm.list()}


def settle(each: Service) -> None:
    """Return when the store has all that the host has, and nothing else."""
    with shmclient.connect(each.path) as shm:
        entries = sorted(entry_of(info.number) for info in shm.list())
    wait_until(lambda: each.names() == entries)


@ENDS
def test_names_that_nobody_holds_outlive_their_host(end: int, systemd: Service) -> None:
    with shmclient.connect(systemd.path) as shm:
        shm.put("bytes", b"1" * 5000, mode=0o640).close()
        shm.put("array", memoryview(b"12345678").cast("i")).close()
        for seal in ("full", "writer"):
            with shm.create(seal, 100_000, seal=seal) as builder:
                builder.data[:] = b"2" * 100_000
        with shm.create("file", 100, backend="shm") as builder:
            builder.data[:] = b"3" * 100
        shm.put("replaced", b"4").close()
        shm.put("replaced", b"5").close()
        shm.put("unlinked", b"6").close()
        shm.unlink("unlinked")
        shm.chmod("bytes", 0o604)
    settle(systemd)
    before = regions(systemd)
    assert len(before) == 6
    systemd.restart(end)
    assert regions(systemd) == before
    with shmclient.connect(systemd.path) as shm, shm.open("file") as region:
        inode = os.fstat(region.fileno()).st_ino
        assert inode in {entry.inode() for entry in os.scandir("/dev/shm")}
    settle(systemd)
    put(systemd, bytes=b"next")
    with shmclient.connect(systemd.path) as shm:
        assert shm.stat("bytes").generation > before["bytes"][0].generation
        for name in before:
            shm.unlink(name)
    wait_until(lambda: systemd.names() == [])


@needs_root
def test_owner_is_the_same_after_a_restart(folder: Path) -> None:
    def put_one() -> None:
        with shmclient.connect(each.path) as shm:
            shm.put("theirs", b"1", mode=0o600).close()

    folder.chmod(0o755)
    with service(folder, 64, "--socket-mode", "666", is_activated=False) as each:
        each.start()
        assert as_nobody(put_one) == 0
        settle(each)
        before = regions(each)
        each.restart()
        assert regions(each) == before
        assert as_nobody(put_one) == 0  # who may replace it


def test_many_restarts_lose_and_leak_nothing(manager: Service) -> None:
    put(manager, **{f"n{number}": bytes([number]) * 2000 for number in range(20)})
    settle(manager)
    before = regions(manager)
    manager.restart()
    descriptors = manager.idle_descriptors()
    for number in range(6):
        manager.restart(signal.SIGTERM if number % 3 == 0 else signal.SIGKILL)
        assert regions(manager) == before
        wait_until(lambda: manager.descriptors() == descriptors)
        settle(manager)


def test_stop_forgets_all(manager: Service) -> None:
    put(manager, x=b"1")
    settle(manager)
    manager.stop()
    manager.start()
    assert regions(manager) == {}
    put(manager, x=b"2")
    settle(manager)
    manager.restart()
    assert [value for _, value in regions(manager).values()] == [b"2"]


def test_client_that_holds_a_region_has_it_still(manager: Service) -> None:
    with shmclient.connect(manager.path) as shm, shm.put("x", b"1" * 5000) as region:
        address = region.address
        settle(manager)
        for end in (signal.SIGKILL, signal.SIGTERM):
            manager.restart(end)
            wait_until(lambda: shm.stat("x").leases == 1)
            assert region.is_current()
            with shm.open("x") as again:
                assert (again.address, again.number) == (address, region.number)
        settle(manager)


@ENDS
def test_superseded_region_comes_back_from_its_client_alone(end: int, manager: Service) -> None:
    with (
        shmclient.connect(manager.path) as shm,
        shm.put("x", b"1") as older,
    ):
        assert bytes(older.data) == b"1"
        shm.put("x", b"2").close()
        settle(manager)
        manager.restart(end)
        assert bytes(shm.get("x")) == b"2"
        assert bytes(older.data) == b"1"
        assert not older.is_current()


def test_kill_loses_at_most_what_was_put_last(manager: Service) -> None:
    """And brings no older value back in its place."""
    for number in range(5):
        put(manager, **{f"{number}-{name}": b"%d" % number * 3000 for name in "abc"})
        settle(manager)
        with shmclient.connect(manager.path) as shm:
            for value in range(100 * number + 1):
                shm.put("hot", b"%d" % value).close()
            manager.end()
        manager.start()
        back = {name: value for name, (_, value) in regions(manager).items()}
        assert back.pop("hot", b"%d" % (100 * number)) == b"%d" % (100 * number)
        assert back == {f"{each}-{name}": b"%d" % each * 3000 for each in range(number + 1) for name in "abc"}


def test_name_that_is_replaced_all_the_time_is_sent_now_and_then(manager: Service) -> None:
    began = time.monotonic()
    with shmclient.connect(manager.path) as shm:
        for number in range(2000):
            shm.put("x", b"%d" % number).close()
    settle(manager)
    sent = sum(state == "FDSTORE=1" for state in manager.states)
    assert sent <= (time.monotonic() - began) / PAUSE_S + 1
    manager.restart()
    assert [value for _, value in regions(manager).values()] == [b"1999"]


def test_host_frees_a_large_object_after_the_manager_has_closed_it(manager: Service) -> None:
    put(manager, large=bytes(2 << 20), small=b"1")
    settle(manager)
    objects = {os.fstat(descriptor).st_size: os.fstat(descriptor).st_ino for _, descriptor in manager.entries}
    large, small = objects[max(objects)], objects[min(objects)]
    assert {large, small} <= manager.inodes()
    manager.is_reading.clear()
    with shmclient.connect(manager.path) as shm:
        shm.unlink("large")
        shm.unlink("small")
        wait_until(lambda: small not in manager.inodes())
        assert large in manager.inodes()
    manager.is_reading.set()
    settle(manager)
    wait_until(lambda: large not in manager.inodes())


def test_store_has_exactly_its_room(folder: Path) -> None:
    with service(folder, 3) as each:
        each.start()
        put(each, a=b"1", b=b"2", c=b"3")
        settle(each)
        assert "has no place" not in each.read_log()
        put(each, d=b"4", e=b"5")
        wait_until(lambda: "has no place for" in each.read_log())
        with shmclient.connect(each.path) as shm:
            assert len(each.names()) == 3
            for number in range(3):
                shm.put("a", b"%d" % number).close()  # a name that has a place keeps one
            shm.unlink("b")
            numbers = {entry_of(info.number) for info in shm.list()}
            wait_until(lambda: len(each.names()) == 3 and set(each.names()) < numbers)
        each.restart()
        assert len(regions(each)) == 3
        assert each.rejected == 0
        assert each.read_log().count("has no place") == 1


def test_manager_that_reads_nothing_holds_up_nobody(manager: Service) -> None:
    manager.is_reading.clear()
    with shmclient.connect(manager.path) as shm:
        for number in range(100):
            shm.put(f"n{number}", b"%d" % number).close()
        for number in range(60):
            shm.unlink(f"n{number}")
    assert manager.names() == []
    manager.is_reading.set()
    settle(manager)
    assert len(manager.names()) == 40
    manager.restart()
    assert len(regions(manager)) == 40
    assert "cannot notify" not in manager.read_log()


def test_manager_without_room_is_told_nothing(folder: Path) -> None:
    with service(folder, 0) as each:
        each.start()
        put(each, x=b"1")
        each.restart(signal.SIGTERM)
        assert regions(each) == {}
        assert each.ignored == each.rejected == 0
        assert os.path.exists(f"{each.path}.state")  # the running host's
        each.end(signal.SIGTERM)
        assert not os.path.exists(f"{each.path}.state")


def test_setting_comes_before_what_the_manager_says(folder: Path) -> None:
    with service(folder, 64, "--store", "2", says_room=False) as each:  # systemd before 254
        each.start()
        put(each, a=b"1", b=b"2", c=b"3")
        wait_until(lambda: len(each.names()) == 2)
        each.options = ("--store", "0")
        each.restart()
        wait_until(lambda: each.names() == [])
        put(each, d=b"1")
        each.restart(signal.SIGTERM)
        assert each.names() == []
        assert "FDSTORE=1" not in each.states


def test_takeover_keeps_the_store(manager: Service) -> None:
    put(manager, a=b"1", b=b"2")
    settle(manager)
    before = regions(manager)
    manager.reload()
    with shmclient.connect(manager.path) as shm:
        shm.unlink("a")
    put(manager, c=b"3")
    settle(manager)
    after = regions(manager)
    assert after["b"] == before["b"]
    manager.restart()
    assert regions(manager) == after
    manager.reload()
    settle(manager)
    manager.restart(signal.SIGTERM)
    assert regions(manager) == after


def test_figures_say_what_is_stored(folder: Path) -> None:
    metrics = folder / "metrics"
    with service(folder, 5, "--metrics", str(metrics)) as each:
        each.start()
        put(each, a=b"1", b=b"2")
        settle(each)
        text = scraped(metrics)
        assert b"shmhost_stored_regions 2.0" in text
        assert b"shmhost_stored_regions_max 5.0" in text
        assert f'shmhost_user_used{{resource="stored",uid="{os.getuid()}"}} 2.0'.encode() in text


# --- what the store has that no host put there ---


def test_foreign_entries_are_refused_and_removed(folder: Path) -> None:
    with service(folder, 200) as each, ExitStack() as stack:
        each.start()
        put(each, a=b"1", b=b"2")
        settle(each)
        each.restart()
        before, descriptors = regions(each), each.idle_descriptors()
        each.end()
        good = dict(each.entries)
        first, second = sorted(good)
        each.add(first, good[second])  # another region's name
        each.add("r7777", good[first])  # a number that no region has
        each.add("r0", good[first])
        each.add("x" * 255, good[first])
        each.add("stored", good[first])
        for name, kind in KINDS.items():
            if "listening" not in name:
                descriptor = kind(stack)
                each.add("foreign", descriptor)
                each.add("r7778", descriptor)
        each.start()
        assert regions(each) == before
        settle(each)  # the one whose name was used twice is there again
        wait_until(lambda: each.descriptors() == descriptors)


def test_copies_are_refused(folder: Path) -> None:
    with service(folder) as each:
        each.start()
        put(each, a=b"1" * 5000)
        settle(each)
        each.end()
        ((name, descriptor),) = each.entries
        content = os.pread(descriptor, 1 << 20, 0)
        copy = os.memfd_create("shmhost:a", os.MFD_ALLOW_SEALING)
        try:
            os.write(copy, content)
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            fcntl.fcntl(copy, fcntl.F_ADD_SEALS, seals)
            each.entries.clear()
            each.add(name, copy)
        finally:
            os.close(copy)
            os.close(descriptor)
        each.start()
        assert regions(each) == {}
        wait_until(lambda: each.names() == [])


def test_duplicate_is_closed(manager: Service) -> None:
    put(manager, a=b"1")
    settle(manager)
    before = regions(manager)
    manager.end()
    ((name, descriptor),) = manager.entries
    manager.add(name, os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY))
    manager.start()
    assert regions(manager) == before
    settle(manager)


def test_older_generation_is_removed(manager: Service) -> None:
    """As if the manager had not heard that it was superseded."""
    put(manager, a=b"1")
    settle(manager)
    with shmclient.connect(manager.path) as shm, shm.open("a"):
        ((name, descriptor),) = manager.entries
        older = os.dup(descriptor)
        put(manager, a=b"2")
        settle(manager)
        before = regions(manager)
        manager.end()
        manager.add(name, older)
        os.close(older)
        manager.start()
        assert regions(manager) == before
        settle(manager)


def test_entries_without_their_state_file_are_removed(manager: Service) -> None:
    put(manager, a=b"1", b=b"2")
    settle(manager)
    manager.end()
    os.remove(f"{manager.path}.state")
    manager.start()
    assert regions(manager) == {}
    wait_until(lambda: manager.names() == [])
