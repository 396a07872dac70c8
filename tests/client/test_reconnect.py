"""A host that goes and comes back: what is held stays, requests fail at once or wait, and nobody restarts."""

from __future__ import annotations

import gc
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import numpy as np
import pytest

import shmclient
import shmclient.aio
from shmclient._connection.retry import PAUSE_MAX_S, PAUSE_MIN_S, Retry
from support import Machine, WatchedHost, count_descriptors, wait_until, watched_host


def test_reader_goes_on_over_the_death_of_its_host(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shmclient.connect(machine.path) as other:
        shm.put("x", np.arange(1000)).close()
        before, address = other.get("x"), other.open("x").address
        machine.kill()
        with pytest.raises(shmclient.HostGone, match="shmhost serve"):
            other.get("y")
        assert other.get("x").sum() == 499500  # the last word of the host
        with pytest.raises(shmclient.HostGone):
            shm.put("x", b"nobody takes it")
        assert before.sum() == 499500
        machine.start()
        shm.put("x", np.arange(2000)).close()  # the same clients, and no error at all
        after = other.get("x")
        assert (len(after), other.open("x").address == address) == (2000, False)
        assert before.sum() == 499500


def test_request_after_a_restart_that_nobody_noticed_succeeds(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1").close()
        machine.kill()
        machine.start()
        assert shm.list() == []
        shm.put("x", b"2").close()
        assert bytes(shm.get("x")) == b"2"


def _wait_in_thread(pool: ThreadPoolExecutor, path: str) -> tuple[threading.Event, Callable[[], bytes]]:
    is_there = threading.Event()

    def wait() -> bytes:
        with shmclient.connect(path) as shm:
            is_there.set()
            return bytes(shm.get("late", wait=60))

    future = pool.submit(wait)
    return is_there, lambda: future.result(60)


def test_wait_outlives_the_host_it_began_with(machine: Machine) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = [_wait_in_thread(pool, machine.path) for _ in range(3)]
        for is_there, _ in waiting:
            assert is_there.wait(30)
        machine.kill()
        machine.start()
        with shmclient.connect(machine.path) as shm:
            shm.put("late", b"here at last").close()
        assert [result() for _, result in waiting] == [b"here at last"] * 3


@pytest.mark.parametrize("wait", [math.inf, 1e9, 1e30])
def test_wait_may_be_for_ever(wait: float, host: WatchedHost, shm: shmclient.Client) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(shm.get, "late", wait=wait) for _ in range(2)]  # one reads, one sleeps
        wait_until(lambda: host.counts()["listeners"] == 1)
        shm.put("late", b"1").close()
        assert [bytes(future.result(30)) for future in waiting] == [b"1", b"1"]


def test_wait_goes_on_after_the_longest_poll(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmclient._connection.line.POLL_MAX_S", 0.001)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(shm.get, "late", wait=60)
        wait_until(lambda: host.counts()["listeners"] == 1)
        time.sleep(0.01)  # some polls long
        shm.put("late", b"1").close()
        assert bytes(waiting.result(30)) == b"1"


def test_wait_without_any_host_ends_in_time(tmp_path: Path) -> None:
    with pytest.raises(shmclient.WaitTimeout, match=r"no host answered within 0\.05 s") as caught:
        shmclient.connect(tmp_path / "none.sock", wait=0.05)
    assert isinstance(caught.value.__cause__, shmclient.HostGone)
    assert isinstance(caught.value, TimeoutError)


def test_connect_waits_for_a_host_that_is_yet_to_start(tmp_path: Path) -> None:
    path = tmp_path / "h.sock"
    with ThreadPoolExecutor() as pool:
        client = pool.submit(shmclient.connect, path, wait=60)
        with watched_host(str(path)), client.result(60) as shm:
            assert shm.list() == []


def test_connect_does_not_wait_for_what_waiting_cannot_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise shmclient.AccessDenied("not for you")

    monkeypatch.setattr("shmclient._drivers.sync.connect", refuse)
    with pytest.raises(shmclient.AccessDenied):
        shmclient.connect(tmp_path / "h.sock", wait=1e6)


def test_end_that_one_thread_finds_reaches_a_watch_in_another(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    with ThreadPoolExecutor() as pool, shm.watch() as changes:
        seen = pool.submit(next, iter(changes))
        wait_until(lambda: host.counts()["listeners"] == 1)
        host.call(lambda: [link.close() for link in list(host.host._links)])
        assert shm.list() == []
        with pytest.raises(shmclient.HostGone):
            seen.result(30)


def test_idle_connection_that_lives_is_kept(host: WatchedHost, shm: shmclient.Client) -> None:
    first = shm.fileno()
    shm.put("x", b"1").close()
    assert shm.fileno() == first
    assert not shm._connected()._line.has_ended()


async def test_async_wait_outlives_its_host(machine: Machine, anyio_backend: str) -> None:
    # Nothing is done in threads of the event loop: trio keeps them for ten seconds, and other tests count.
    values: list[bytes] = []
    async with await shmclient.aio.connect(machine.path) as ashm:

        async def wait() -> None:
            values.append(bytes(await ashm.get("late", wait=60)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            machine.kill()
            with pytest.raises(shmclient.HostGone):
                await ashm.list()
            machine.start()
            (await ashm.put("late", b"here at last")).close()
    assert values == [b"here at last"]


async def test_async_connect_waits_for_its_host(tmp_path: Path, anyio_backend: str) -> None:
    path = str(tmp_path / "h.sock")
    with pytest.raises(shmclient.WaitTimeout):
        await shmclient.aio.connect(path, wait=0.02)
    with ThreadPoolExecutor() as pool:
        machine = Machine(Path(path))
        starting = pool.submit(machine.start)
        async with await shmclient.aio.connect(path, wait=60) as ashm:
            assert await ashm.list() == []
        starting.result()
        machine.kill()


EXPECTED = (shmclient.HostGone, shmclient.RegionNotFound, shmclient.WaitTimeout, shmclient.RegionBusy)


def use(shm: shmclient.Client, number: int, is_over: threading.Event) -> Counter[str]:
    """Do all kinds of things with a client in a random order; count how they end."""
    choose, ends = random.Random(number), Counter[str]()
    while not is_over.is_set():
        name = f"x{choose.randrange(3)}"
        steps: list[Callable[[str], object]] = [
            lambda name: shm.put(name, bytes(1000)).close(),
            lambda name: bytes(shm.get(name)),
            lambda name: bytes(shm.get(name, wait=choose.random() / 2)),
            lambda name: shm.open_many([name, "x0"]),
            lambda name: shm.unlink(name),
            lambda name: shm.watch(name).close(),
            shm.list,
        ]
        try:
            choose.choice(steps)(name)
            ends["done"] += 1
        except EXPECTED as error:
            ends[type(error).__name__] += 1
    return ends


def test_threads_of_one_client_get_over_hosts_that_are_killed(machine: Machine) -> None:
    gc.collect()
    descriptors = count_descriptors()
    is_over = threading.Event()
    with shmclient.connect(machine.path) as shm, ThreadPoolExecutor() as pool:
        running = [pool.submit(use, shm, number, is_over) for number in range(6)]
        try:
            for _ in range(6):
                time.sleep(0.2)  # some hundred requests
                machine.kill()
                machine.start()
        finally:
            is_over.set()
        ends = sum((future.result(60) for future in running), Counter[str]())
        assert ends["done"] > 100
        assert ends["HostGone"] > 0
        shm.put("after", b"all of it").close()
        assert bytes(shm.get("after")) == b"all of it"
    gc.collect()
    wait_until(lambda: count_descriptors() == descriptors, shown=count_descriptors)
    assert [
        line for line in Path("/proc/self/maps").read_text().splitlines() if "memfd:shmhost" in line
    ] == []


def test_pauses_double_up_to_a_second_and_end_with_the_wait() -> None:
    now = 0.0
    retry = Retry(10.0, lambda: now)
    pauses = []
    with pytest.raises(shmclient.WaitTimeout):
        for _ in range(1000):
            assert retry.remaining() == 10.0 - now
            pauses.append(retry.pause(shmclient.HostGone("gone")))
            now = min(now + pauses[-1], 10.0)
    limits = [min(PAUSE_MIN_S * 2**number, PAUSE_MAX_S) for number in range(len(pauses))]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses[:-1], limits, strict=False))
    assert now == 10.0


def test_without_a_wait_the_error_itself_comes() -> None:
    error = shmclient.HostGone("gone")
    with pytest.raises(shmclient.HostGone) as caught:
        Retry(None).pause(error)
    assert caught.value is error
    assert Retry(None).remaining() is None
