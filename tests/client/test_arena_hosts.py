"""Threads that wait for values of an arena while its host is killed, comes back, or stays away."""

from __future__ import annotations

import contextlib
import itertools
import random
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import shmclient
from arena_support import Sleepers, start_camera
from shmclient._drivers.steps import Connect
from support import Machine, count_descriptors, in_child, wait_until
from takeover_support import line_of_hosts

ROADS = ["follow", "wait", "get", "open", "changes"]


class Reader:
    """A client that waits for what is newer than the first value of `x` in an arena, on one of the roads."""

    def __init__(self, path: str, wait: float = 60) -> None:
        self.client = shmclient.connect(path)
        self.view = self.client.open_arena("camera")
        self.wait = wait
        self._follow = self.client.follow("camera/x", wait=wait)
        next(self._follow)
        self.generation = self.view.open("x").generation
        self.changes = self.view.changes(wait=wait)
        self._sleepers = Sleepers(self.view._reader)

    def next(self, road: str) -> bytes:
        after, wait = self.generation, self.wait
        if road == "follow":
            return bytes(next(self._follow))
        if road == "changes":
            change = next(self.changes)
            assert change.name == "x"
            return bytes(self.client.get("camera/x"))
        if road == "get":
            return bytes(self.client.get("camera/x", after=after, wait=wait))
        if road == "open":
            return bytes(self.client.open("camera/x", after=after, wait=wait).data)
        return bytes(self.view.wait("x", after=after, wait=wait).data)

    def is_without_host(self) -> bool:
        channel = self.client._core.channel
        return channel is not None and channel._exchange.failure is not None

    def sleepers(self) -> int:
        """Return how many are noted in the ledger as asleep."""
        return self._sleepers.count()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@pytest.fixture
def owner(machine: Machine) -> Iterator[shmclient.Client]:
    with shmclient.connect(machine.path) as shm:
        yield shm


@pytest.fixture
def arena(owner: shmclient.Client) -> shmclient.Arena:
    return start_camera(owner, b"-3", b"-2", b"-1", b"0")


@pytest.fixture
def reader(machine: Machine, arena: shmclient.Arena) -> Iterator[Reader]:
    other = Reader(machine.path)
    yield other
    other.client.close()


Waiting = Callable[..., list["Future[bytes]"]]


@pytest.fixture
def waiting(reader: Reader, pool: ThreadPoolExecutor) -> Waiting:
    """Have threads wait, each on its road, asleep."""
    return lambda *roads: start(reader, pool, roads)


def start(reader: Reader, pool: ThreadPoolExecutor, roads: Sequence[str]) -> list[Future[bytes]]:
    futures = [pool.submit(reader.next, road) for road in roads]
    wait_until(lambda: reader.sleepers() == len(roads))
    return futures


def results(futures: list[Future[bytes]]) -> list[bytes]:
    return [future.result(60) for future in futures]


def test_owner_goes_on_without_a_host(
    machine: Machine, arena: shmclient.Arena, reader: Reader, waiting: Waiting
) -> None:
    """The value wakes also those who have noticed that the host is gone, and look for the next one."""
    futures = waiting(*ROADS)
    machine.kill()
    wait_until(reader.is_without_host)
    assert not any(future.done() for future in futures)
    arena["x"] = b"1"
    assert results(futures) == [b"1"] * 5


@pytest.mark.parametrize("road", ROADS)
def test_first_value_of_another_arena_at_the_next_host_comes(
    road: str, machine: Machine, owner: shmclient.Client, waiting: Waiting
) -> None:
    """Its generations begin anew: they are smaller than what was waited for."""
    futures = waiting(road)
    machine.restart()
    with start_camera(owner, b"1"):
        assert results(futures) == [b"1"]


def test_waits_outlive_two_hosts_and_the_arena_comes_long_after_them(
    machine: Machine, reader: Reader, owner: shmclient.Client, waiting: Waiting
) -> None:
    futures = waiting(*ROADS)
    for _ in range(2):
        before = reader.client._core.channel
        machine.restart()
        wait_until(lambda before=before: reader.client._core.channel is not before)  # type: ignore[misc]
    assert owner.list("nothing") == []
    with start_camera(owner) as camera:
        assert not any(future.done() for future in futures)
        camera["x"] = b"1"
        assert results(futures) == [b"1"] * 5


OWNER = """
import sys, time, shmclient
shm = shmclient.connect(sys.argv[1])
arena = shm.arena("camera", 8 << 20, names=16)
for value in sys.argv[2:]:
    arena["x"] = value.encode()
print("ready", flush=True)
time.sleep(600)
"""


def owner_elsewhere(path: str, *values: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", textwrap.dedent(OWNER), path, *values]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_owner_is_killed_with_its_host(machine: Machine, pool: ThreadPoolExecutor) -> None:
    children = [owner_elsewhere(machine.path, "-1", "0")]
    reader = Reader(machine.path)
    try:
        futures = start(reader, pool, ROADS)
        children[0].kill()
        machine.restart()
        children.append(owner_elsewhere(machine.path, "1"))
        assert results(futures) == [b"1"] * 5
    finally:
        for child in children:
            child.kill()
            child.communicate()
        reader.client.close()


def test_region_has_the_name_at_the_next_host(
    machine: Machine, owner: shmclient.Client, waiting: Waiting
) -> None:
    futures = waiting("follow", "get", "open")
    machine.restart()
    with contextlib.suppress(shmclient.RegionNotFound):
        owner.unlink("camera")  # if it is back
    with owner.put("camera/x", b"1"):
        assert results(futures) == [b"1"] * 3


def test_wait_goes_on_at_a_host_that_takes_over(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    with line_of_hosts(tmp_path / "s") as line, shmclient.connect(line.path) as owner:
        camera = start_camera(owner, b"-1", b"0")
        reader = Reader(line.path)
        futures = start(reader, pool, ROADS)
        line.take_over()
        camera["x"] = b"1"
        assert results(futures) == [b"1"] * 5
        reader.client.close()
        camera.close()


def test_follow_without_a_wait_gives_what_is_there_and_then_says_that_the_host_is_gone(
    machine: Machine, arena: shmclient.Arena
) -> None:
    with shmclient.connect(machine.path) as shm, shm.follow("camera/x", wait=None) as values:
        next(values)
        machine.kill()
        arena["x"] = b"1"
        assert bytes(next(values)) == b"1"
        with pytest.raises(shmclient.HostGone):
            next(values)
        arena["x"] = b"2"
        assert bytes(next(values)) == b"2"


def test_follow_gives_each_value_once_without_a_host(
    machine: Machine, arena: shmclient.Arena, reader: Reader, pool: ThreadPoolExecutor
) -> None:
    machine.kill()
    for number in range(1, 30):
        future = pool.submit(reader.next, "follow")
        arena["x"] = b"%d" % number
        assert future.result(60) == b"%d" % number


def test_waiting_for_a_host_is_sleep_and_ends_with_its_time(
    machine: Machine, arena: shmclient.Arena, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead host must not end each sleep at once: so few steps are what the growing pauses leave."""
    reader, steps = Reader(machine.path, wait=1), []
    carry_out = shmclient.Client._carry_out

    def count(self: shmclient.Client, step: Any, channel: Any) -> object:
        steps.append(type(step))
        return carry_out(self, step, channel)

    machine.kill()
    monkeypatch.setattr(shmclient.Client, "_carry_out", count)
    for future in [pool.submit(reader.next, road) for road in ROADS]:
        with pytest.raises(shmclient.WaitTimeout, match="no host answered"):
            future.result(60)
    assert steps.count(Connect) < 100
    assert len(steps) < 500
    reader.client.close()


def test_close_of_the_client_ends_waits_without_a_host(
    machine: Machine, reader: Reader, waiting: Waiting
) -> None:
    futures = waiting(*ROADS)
    machine.kill()
    wait_until(reader.is_without_host)
    reader.client.close()
    for future in futures:
        with pytest.raises((shmclient.ClientClosed, shmclient.Closed)):
            future.result(60)


def test_close_of_follow_and_view_ends_a_wait_without_a_host(
    machine: Machine, reader: Reader, waiting: Waiting
) -> None:
    futures = waiting("follow", "changes")
    machine.kill()
    wait_until(reader.is_without_host)
    reader._follow.close()
    reader.view.close()
    for future in futures:
        with pytest.raises((StopIteration, RuntimeError)):
            future.result(60)


def test_child_of_a_fork_waits_for_the_next_host(
    machine: Machine, arena: shmclient.Arena, reader: Reader
) -> None:
    """What its parent has mapped is not its own, so there is nothing that it could read without a host."""
    with reader.client.follow("camera/x", wait=0.3) as values:
        next(values)
        machine.kill()
        arena["x"] = b"1"

        def child() -> None:
            calls: list[Callable[[], object]] = [
                lambda: next(values),
                lambda: reader.view.wait("x", wait=0.1),
                lambda: reader.client.get("camera/x", after=1, wait=0.1),
            ]
            for call in calls:
                with pytest.raises(shmclient.WaitTimeout):
                    call()

        assert in_child(child) == 0


def test_many_threads_move_to_the_next_arena(
    machine: Machine, owner: shmclient.Client, reader: Reader
) -> None:
    """The kernel wakes one sleeper when the host is killed, and that one wakes the others."""
    with ThreadPoolExecutor(20) as threads:
        futures = start(reader, threads, ["wait"] * 20)
        machine.restart()
        with start_camera(owner, b"1"):
            assert results(futures) == [b"1"] * 20


def test_nothing_is_left_open_after_hosts_came_and_went(
    machine: Machine, owner: shmclient.Client, pool: ThreadPoolExecutor
) -> None:
    counts = []
    for _ in range(3):
        with start_camera(owner, b"0") as camera:
            reader = Reader(machine.path)
            future = pool.submit(reader.next, "follow")
            machine.kill()
            camera["x"] = b"1"
            assert future.result(60) == b"1"
            reader.client.close()
            machine.start()
            del reader
        assert owner.list("nothing") == []
        counts.append(count_descriptors())
    wait_until(lambda: count_descriptors() <= counts[1])  # what hands back closes its own a moment later


def test_arena_that_is_back_gives_no_value_twice_and_loses_none(
    machine: Machine, arena: shmclient.Arena, reader: Reader, waiting: Waiting
) -> None:
    """Values come before the host is killed, without one, and at the next one."""
    for number in range(0, 9, 3):
        futures = waiting(*ROADS)
        machine.kill()
        wait_until(reader.is_without_host)
        arena["x"] = b"%d" % (number + 1)
        assert results(futures) == [b"%d" % (number + 1)] * 5
        reader.generation = reader.view.open("x").generation
        futures = waiting(*ROADS)
        machine.start()
        wait_until(lambda: not reader.is_without_host() and reader.sleepers() == len(ROADS))
        assert not any(future.done() for future in futures)
        arena["x"] = b"%d" % (number + 2)
        assert results(futures) == [b"%d" % (number + 2)] * 5
        reader.generation = reader.view.open("x").generation
        futures = waiting(*ROADS)
        arena["x"] = b"%d" % (number + 3)
        assert results(futures) == [b"%d" % (number + 3)] * 5
        reader.generation = reader.view.open("x").generation


def test_values_come_in_order_and_once_while_hosts_are_killed_at_random(
    machine: Machine, arena: shmclient.Arena, reader: Reader, pool: ThreadPoolExecutor
) -> None:
    draw, stop, seen = random.Random(13), threading.Event(), list[int]()

    def put() -> int:
        numbers = itertools.count(1)
        while not stop.wait(draw.choice((0, 0, 0.001, 0.02))):
            arena["x"] = b"%d" % next(numbers)
        return next(numbers)

    def follow() -> None:
        while not seen or seen[-1] != last:
            seen.append(int(reader.next("follow")))

    def see(more: int) -> None:
        count = len(seen) + more
        wait_until(lambda: len(seen) >= count)

    last = -1
    putting, following = pool.submit(put), pool.submit(follow)
    try:
        for _ in range(6):
            machine.kill()
            see(draw.randrange(5))
            machine.start()
            see(draw.randrange(20))
    finally:
        stop.set()
        last = putting.result(60)
        arena["x"] = b"%d" % last
    following.result(60)
    assert seen == sorted(set(seen))
