"""What the death of a host leaves in its clients: no mapping, no descriptor, no wrong answer, no silence."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest

import shmclient
import shmclient.aio
from support import Machine, count_descriptors, wait_until


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[str]:
    """A socket that takes connections and never says a word, as a stopped host's."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "mute.sock"))
        listener.listen(100)
        yield str(tmp_path / "mute.sock")


def mapped() -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "memfd:shmhost" in line]


def test_region_of_the_dead_host_has_another_number_and_is_not_current(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shm.put("x", b"old") as old:
        machine.restart()
        with shm.put("x", b"new") as new:
            assert old.number != new.number
            assert old.generation < new.generation
            assert new.is_current()
            assert not old.is_current()
            assert (bytes(old.data), bytes(new.data)) == (b"old", b"new")


def ask_and_die(machine: Machine) -> None:
    """Hold a region, and have the host die while it owes a reply."""
    with shmclient.connect(machine.path) as shm:
        region = shm.put("x", b"1")
        assert bytes(region.data) == b"1"
        machine.signal(signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(shm.stat, region.name)
            wait_until(lambda: shm._connected()._exchange.pendings)
            machine.kill()
            with pytest.raises(shmclient.HostGone):
                asked.result(30)
    machine.start()


def test_nothing_is_kept_by_the_error_of_a_dead_host(machine: Machine) -> None:
    ask_and_die(machine)
    gc.collect()
    before = count_descriptors()
    for _ in range(3):
        ask_and_die(machine)
    gc.collect()
    assert mapped() == []
    assert count_descriptors() == before


async def test_nothing_is_kept_by_the_error_of_an_async_client(machine: Machine, anyio_backend: str) -> None:
    async def ask_and_die() -> None:
        async with await shmclient.aio.connect(machine.path) as ashm:
            region = await ashm.put("x", b"1")
            assert bytes(region.data) == b"1"
            machine.signal(signal.SIGSTOP)
            async with anyio.create_task_group() as tasks:

                async def ask() -> None:
                    with pytest.raises(shmclient.HostGone):
                        await ashm.stat(region.name)

                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                machine.kill()
        machine.start()

    await ask_and_die()
    gc.collect()
    before = count_descriptors()
    for _ in range(3):
        await ask_and_die()
    gc.collect()
    assert mapped() == []
    assert count_descriptors() == before


def is_locked(lock: Any) -> bool:
    """Whether another thread owns a lock; RLock.locked() is new in Python 3.14."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


def test_client_that_is_closed_while_it_connects_stays_closed(machine: Machine) -> None:
    shm = shmclient.connect(machine.path)
    machine.restart()
    machine.signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(shm.list)
        wait_until(lambda: is_locked(shm._core._lock))
        shm.close()
        machine.signal(signal.SIGCONT)
        with pytest.raises(shmclient.ClientClosed):
            asked.result(30)
    with pytest.raises(shmclient.ClientClosed):
        shm.list()
    assert shm._core.channel is None


async def test_async_client_that_is_closed_while_it_connects_stays_closed(
    machine: Machine, anyio_backend: str
) -> None:
    ashm = await shmclient.aio.connect(machine.path)
    machine.restart()
    machine.signal(signal.SIGSTOP)

    async def ask() -> None:
        with pytest.raises(shmclient.ClientClosed):
            await ashm.list()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await ashm.aclose()
        machine.signal(signal.SIGCONT)
    assert ashm._core.channel is None


def test_watch_tells_all_that_came_before_the_end(machine: Machine) -> None:
    with (
        shmclient.connect(machine.path) as shm,
        shmclient.connect(machine.path) as other,
        shm.watch() as changes,
    ):
        held = shm.put("held", b"1")
        for name in ("a", "b"):
            other.put(name, b"1").close()
        assert other.stat("b")  # and the events have been sent
        machine.kill()
        held.close()  # finds the host gone, by a write
        assert [next(changes).info.name for _ in range(3)] == ["held", "a", "b"]
        with pytest.raises(shmclient.HostGone):
            next(changes)


def test_watch_of_a_closed_client_says_so(machine: Machine) -> None:
    shm = shmclient.connect(machine.path)
    changes = shm.watch()
    shm.close()
    with pytest.raises(shmclient.ClientClosed, match="the client is closed"):
        next(changes)


async def test_async_wait_outlives_a_host_that_a_lease_found_gone(
    machine: Machine, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(machine.path) as ashm:
        held = await ashm.put("held", b"1")
        values: list[bytes] = []

        async def wait() -> None:
            values.append(bytes(await ashm.get("late", wait=60)))

        async with ashm.watch() as changes, anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            (await ashm.put("other", b"1")).close()
            assert await ashm.stat("other")  # and the event has been sent
            machine.kill()
            held.close()
            machine.start()
            (await ashm.put("late", b"here")).close()
            assert (await changes.__anext__()).info.name == "other"
        assert values == [b"here"]


async def test_async_close_ends_the_wait_of_another_task(machine: Machine, anyio_backend: str) -> None:
    ashm = await shmclient.aio.connect(machine.path)

    async def wait() -> None:
        with pytest.raises(shmclient.ClientClosed):
            await ashm.get("never", wait=float("inf"))

    before = count_descriptors()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await ashm.aclose()
    assert count_descriptors() == before - 1
    async with await shmclient.aio.connect(machine.path) as other:  # which gets the same descriptor
        assert await other.list() == []


def test_replaced_connection_is_closed_though_a_view_lives(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        views = []
        for number in range(4):
            shm.put("x", b"%d" % number).close()
            views.append(shm.get("x"))
            extra = shm.put("y", b"1")
            machine.kill()
            extra.close()  # finds the host gone, by a write
            machine.start()
            assert [info.name for info in shm.list()] == ["x"]  # which the last view has kept
            if number == 0:
                before = count_descriptors()
        assert count_descriptors() == before
        assert [bytes(view) for view in views] == [b"0", b"1", b"2", b"3"]


def test_wait_is_one_for_any_number_of_names(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        names = [f"n{number}" for number in range(65)]
        for name in names[:-2]:
            shm.put(name, b"1").close()
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            opened = pool.submit(shm.open_many, names, wait=3.0)
            wait_until(lambda: time.monotonic() - began > 2.0)
            shm.put(names[-2], b"1").close()  # the first 64 are there now; the last one never comes
            with pytest.raises(shmclient.WaitTimeout):
                opened.result(30)
        assert 2.9 < time.monotonic() - began < 4.9  # not 2 s and then 3 s more


@pytest.mark.parametrize("wait", [float("nan"), -1.0])
def test_wait_that_is_no_time_is_refused(wait: float, machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="a number of seconds"):
        shmclient.connect(tmp_path / "none.sock", wait=wait)
    with shmclient.connect(machine.path) as shm, pytest.raises(shmclient.InvalidArgument):
        shm.get("x", wait=wait)


def test_wait_for_a_host_that_says_nothing_ends_in_time(mute: str) -> None:
    began = time.monotonic()
    with pytest.raises(shmclient.WaitTimeout):
        shmclient.connect(mute, wait=0.3, timeout=20)
    assert time.monotonic() - began < 10


async def test_async_wait_for_a_host_that_says_nothing_ends_in_time(mute: str, anyio_backend: str) -> None:
    began = time.monotonic()
    with pytest.raises(shmclient.WaitTimeout):
        await shmclient.aio.connect(mute, wait=0.3, timeout=20)
    assert time.monotonic() - began < 10


def test_threads_that_wait_for_one_connection_fail_together(machine: Machine) -> None:
    with shmclient.connect(machine.path, timeout=1) as shm:
        machine.restart()
        machine.signal(signal.SIGSTOP)
        began, is_ready = time.monotonic(), threading.Barrier(6)

        def ask() -> None:
            is_ready.wait(30)
            with pytest.raises(shmclient.HostTimeout):
                shm.list()

        with ThreadPoolExecutor() as pool:
            for future in [pool.submit(ask) for _ in range(6)]:
                future.result(30)
        assert time.monotonic() - began < 5.5  # one after the other it would be six
        machine.signal(signal.SIGCONT)


def test_host_that_dies_in_the_middle_of_a_frame_is_gone(tmp_path: Path) -> None:
    path = str(tmp_path / "h.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def die() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"\x40\0\0\0\x93")  # a frame of 64 bytes, and one of them

        with ThreadPoolExecutor() as pool:
            dying = pool.submit(die)
            with pytest.raises(shmclient.HostGone):
                shmclient.connect(path)
            dying.result(30)


def test_builder_publishes_while_other_threads_unmap(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, ThreadPoolExecutor() as pool:

        def build(number: int) -> None:
            for turn in range(60):
                with shm.create(f"b{number}", 4096) as builder:
                    builder.data[:4] = b"%04d" % turn

        for future in [pool.submit(build, number) for number in range(6)]:
            future.result(60)  # no RegionBusy
        assert os.path.exists(machine.path)


async def test_task_is_not_told_what_another_was_told_before_it_asked(
    mute: str, tmp_path: Path, anyio_backend: str
) -> None:
    """One attempt fails; the next one hangs and is cancelled; who waited for that one tries itself."""
    path = tmp_path / "h.sock"
    ashm = shmclient.aio.AsyncClient(path, timeout=1)
    with pytest.raises(shmclient.HostGone):
        await ashm.list()
    os.rename(mute, path)
    ends: list[str] = []

    async def ask() -> None:
        try:
            await ashm.list()
        except shmclient.ShmError as error:
            ends.append(type(error).__name__)

    first = anyio.CancelScope()

    async def be_cancelled() -> None:
        with first:
            await ashm.list()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(be_cancelled)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
    assert ends == ["HostTimeout"]
