"""Followers that sleep on the board: news, the end of the host and `close` wake them, and no clock does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

import shmclient
import shmclient.aio
from shmclient._connection.sleeper import Sleeper
from shmprotocol.kernel.board import wait_for_change
from support import Machine, WatchedHost, forbid, in_child, wait_until

FUTEX_WAITV = 449


class Followers:
    """Threads that follow one name, each with a client of its own."""

    def __init__(self, path: str, count: int) -> None:
        self.values: list[list[bytes]] = [[] for _ in range(count)]
        self._path = path
        self._threads = [threading.Thread(target=self._follow, args=(values,)) for values in self.values]
        for thread in self._threads:
            thread.start()

    def _follow(self, values: list[bytes]) -> None:
        with shmclient.connect(self._path) as shm, shm.follow("x") as news:
            for value in news:
                values.append(bytes(value))
                if values[-1] == b"end":
                    return

    def saw(self, value: bytes) -> bool:
        return all(values and values[-1] == value for values in self.values)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def follow_with_few_messages(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path) as shm, shmclient.connect(host.socket_path) as writer:
        writer.put("x", b"0").close()
        news = shm.follow("x")
        assert bytes(next(news)) == b"0"
        with ThreadPoolExecutor() as pool:
            for number in range(1, 20):
                following = pool.submit(next, news)
                writer.put("x", b"%d" % number).close()
                assert bytes(following.result(30)) == b"%d" % number
        news.close()


class Noted(set[Any]):
    """A set that counts what was ever added to it."""

    added = 0

    def add(self, item: object) -> None:
        self.added += 1
        super().add(item)


def test_the_host_has_no_listener_while_somebody_sleeps(host: WatchedHost) -> None:
    host.host._hub.listeners = listeners = Noted()
    follow_with_few_messages(host)
    assert listeners.added == 0
    with shmclient.connect(host.socket_path) as shm, shm.watch("x"):
        assert listeners.added == 1


@pytest.mark.parametrize("errno", [1, 38])  # a filter, and a kernel before 5.16
def test_without_the_system_call_the_host_tells(errno: int, host: WatchedHost) -> None:
    def follow() -> None:
        forbid(FUTEX_WAITV, errno)
        follow_with_few_messages(host)

    assert in_child(follow) == 0


def test_all_who_sleep_hear_of_news_and_of_the_end_of_the_host(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmclient._connection.sleeper._LOOK_AGAIN_S", 1000.0)
    with shmclient.connect(machine.path) as writer:
        writer.put("x", b"1").close()
        followers = Followers(machine.path, 8)
        wait_until(lambda: followers.saw(b"1"))
        writer.put("x", b"2").close()
        wait_until(lambda: followers.saw(b"2"))
        machine.kill()
        machine.start()
        writer.put("x", b"3").close()
        wait_until(lambda: followers.saw(b"3"))
        writer.put("x", b"end").close()
        followers.join()
    assert followers.values == [[b"1", b"2", b"3", b"end"]] * 8


def test_get_after_a_generation_sleeps_on_the_board(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.put("x", b"1") as region:
        value = shm.get("x")
        with shmclient.connect(host.socket_path) as writer, ThreadPoolExecutor() as pool:
            waiting = pool.submit(shm.get, "x", after=region.generation, wait=30)
            writer.put("x", b"2").close()
            assert bytes(waiting.result(30)) == b"2"
        assert bytes(value) == b"1"
    value = shm.get("x")
    with pytest.raises(shmclient.WaitTimeout, match="no generation after 2 in time"):
        shm.get("x", after=2, wait=0.05)
    with pytest.raises(shmclient.RegionNotFound, match="no generation after 2"):
        shm.get("x", after=2)


@pytest.mark.parametrize("is_over", [lambda: True, lambda: False])
def test_a_sleeper_without_time_returns_at_once(is_over: Callable[[], bool], shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    value = shm.get("x")
    board, line = shm._core.board_of(shm._core.channel.outbox.host_id), 0  # type: ignore[union-attr]
    assert board is not None
    line = board.line(shm._core.mapped["x"].grant.line)
    answer = Sleeper().sleep(line, board.owner, board.changes(line), 0, is_over)
    assert answer is (True if is_over() else None)
    assert bytes(value) == b"1"


def test_signals_are_handled_while_somebody_sleeps(host: WatchedHost) -> None:
    def follow() -> None:
        with shmclient.connect(host.socket_path) as shm:
            shm.put("x", b"1").close()
            signal.signal(signal.SIGALRM, lambda *_: shm.put("x", b"2").close())
            news = shm.follow("x")
            assert bytes(next(news)) == b"1"
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            assert bytes(next(news)) == b"2"
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(KeyboardInterrupt):
                next(news)
            shm.put("x", b"3").close()
            assert bytes(next(shm.follow("x"))) == b"3"

    assert in_child(follow) == 0


def test_follower_that_wakes_for_nothing_gives_nothing_twice(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is fetched right after a wake-up may be what it had before."""
    wakes = 5

    def wake_for_nothing(*arguments: Any) -> int:
        nonlocal wakes
        wakes -= 1
        return 0 if wakes >= 0 else wait_for_change(*arguments)

    monkeypatch.setattr("shmclient._connection.sleeper.wait_for_change", wake_for_nothing)
    shm.put("x", b"1").close()
    news = shm.follow("x")
    assert bytes(next(news)) == b"1"
    with ThreadPoolExecutor() as pool, shmclient.connect(host.socket_path) as writer:
        following = pool.submit(next, news)
        wait_until(lambda: wakes < 0)
        writer.put("x", b"2").close()
        assert bytes(following.result(30)) == b"2"


@pytest.mark.anyio
async def test_task_that_follows_asks_the_host_once_for_each_value(
    host: WatchedHost, anyio_backend: str
) -> None:
    """The board says whether there is anything to ask for."""
    seen: list[bytes] = []

    async def follow() -> None:
        async for value in ashm.follow("x"):
            seen.append(bytes(value))  # noqa: PERF401 others look at it meanwhile

    def opens() -> int:
        count: int = host.call(lambda: host.host._hub.meter.latencies["open"].count)
        return count

    async with await shmclient.aio.connect(host.socket_path) as ashm:
        (await ashm.put("x", b"0")).close()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            before = opens()
            for number in range(1, 10):
                (await ashm.put("x", b"%d" % number)).close()
                with anyio.fail_after(20):
                    while seen[-1] != b"%d" % number:
                        await anyio.wait_all_tasks_blocked()
                await anyio.wait_all_tasks_blocked()
            assert opens() - before == 9
            tasks.cancel_scope.cancel()
    assert seen == [b"%d" % number for number in range(10)]
