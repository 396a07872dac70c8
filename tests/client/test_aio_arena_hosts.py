"""Tasks that wait for values of an arena while its host is killed, comes back, or stays away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import shmclient
import shmclient.aio
from arena_support import Sleepers, start_camera
from shmclient._drivers.steps import Connect
from support import Machine, count_descriptors

pytestmark = pytest.mark.anyio

ROADS = ["follow", "wait", "get", "open", "changes"]


async def until(is_so: Callable[[], bool]) -> None:
    """Return when something is so, while the other tasks of the loop run."""
    with anyio.fail_after(60):
        while not is_so():  # noqa: ASYNC110 nobody tells
            await anyio.sleep(0.002)


class Reader:
    """A client that waits for what is newer than the first value of `x` in an arena, on one of the roads."""

    def __init__(self, client: shmclient.aio.AsyncClient, wait: float) -> None:
        self.client = client
        self.wait = wait

    async def start(self) -> None:
        """Have a first value; `forget` is to follow."""
        self.view = await self.client.open_arena("camera")
        self.follow = self.client.follow("camera/x", wait=self.wait)
        await anext(self.follow)
        self.generation = self.view.open("x").generation
        self.changes = self.view.changes(wait=self.wait)
        self._sleepers = Sleepers(self.view._reader)

    async def forget(self) -> None:
        """Let go of all: anyio's runner keeps the end of its last fixture, and so each frame of that."""
        self.follow.close()
        await self.changes.aclose()  # type: ignore[attr-defined]
        vars(self).clear()

    async def asleep(self, count: int = 1) -> None:
        await until(lambda: self._sleepers.count() == count)

    async def without_host(self) -> None:
        channel: Any = self.client._core.channel
        await until(lambda: channel._exchange.failure is not None)

    async def next(self, road: str) -> bytes:
        after, wait = self.generation, self.wait
        if road == "follow":
            return bytes(await anext(self.follow))
        if road == "changes":
            change = await anext(self.changes)
            assert change.name == "x"
            return bytes(await self.client.get("camera/x"))
        if road == "get":
            return bytes(await self.client.get("camera/x", after=after, wait=wait))
        if road == "open":
            return bytes((await self.client.open("camera/x", after=after, wait=wait)).data)
        return bytes((await self.view.wait("x", after=after, wait=wait)).data)


@asynccontextmanager
async def reading(path: str, wait: float = 60) -> AsyncIterator[Reader]:
    async with await shmclient.aio.connect(path) as client:
        reader = Reader(client, wait)
        await reader.start()
        yield reader
        await reader.forget()


@pytest.fixture
def owner(machine: Machine) -> Iterator[shmclient.Client]:
    with shmclient.connect(machine.path) as shm:
        yield shm


@pytest.fixture
def arena(owner: shmclient.Client) -> shmclient.Arena:
    return start_camera(owner, b"-3", b"-2", b"-1", b"0")


@pytest.fixture
async def reader(machine: Machine, arena: shmclient.Arena, anyio_backend: str) -> AsyncIterator[Reader]:
    async with reading(machine.path) as other:
        yield other


class Waiting:
    """Tasks that wait, each on its road, and what they got."""

    def __init__(self, reader: Reader, tasks: anyio.abc.TaskGroup) -> None:
        self.values: list[bytes] = []
        self._reader = reader
        self._tasks = tasks

    async def start(self, *roads: str) -> None:
        for road in roads:
            self._tasks.start_soon(self._wait, road)
        await self._reader.asleep(len(roads))

    async def _wait(self, road: str) -> None:
        self.values.append(await self._reader.next(road))


async def restart(machine: Machine) -> None:
    await anyio.to_thread.run_sync(machine.restart)


async def test_owner_goes_on_without_a_host(machine: Machine, arena: shmclient.Arena, reader: Reader) -> None:
    async with anyio.create_task_group() as tasks:
        waiting = Waiting(reader, tasks)
        await waiting.start(*ROADS)
        machine.kill()
        await reader.without_host()
        assert waiting.values == []
        arena["x"] = b"1"
    assert waiting.values == [b"1"] * 5


@pytest.mark.parametrize("road", ROADS)
async def test_first_value_of_another_arena_at_the_next_host_comes(
    road: str, machine: Machine, owner: shmclient.Client, reader: Reader
) -> None:
    """Its generations begin anew: they are smaller than what was waited for."""
    async with anyio.create_task_group() as tasks:
        waiting = Waiting(reader, tasks)
        await waiting.start(road)
        await restart(machine)
        camera = start_camera(owner, b"1")
    assert waiting.values == [b"1"]
    camera.close()


async def test_waits_outlive_two_hosts_and_the_arena_comes_long_after_them(
    machine: Machine, owner: shmclient.Client, reader: Reader
) -> None:
    async with anyio.create_task_group() as tasks:
        waiting = Waiting(reader, tasks)
        await waiting.start(*ROADS)
        for _ in range(2):
            before = reader.client._core.channel
            await restart(machine)
            await until(lambda before=before: reader.client._core.channel is not before)  # type: ignore[misc]
        assert owner.list("nothing") == []
        with start_camera(owner) as camera:
            assert waiting.values == []
            camera["x"] = b"1"
            await until(lambda: len(waiting.values) == 5)
    assert waiting.values == [b"1"] * 5


async def test_waiting_for_a_host_is_sleep_and_ends_with_its_time(
    machine: Machine, arena: shmclient.Arena, anyio_backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead host must not end each sleep at once: so few steps are what the growing pauses leave."""
    steps = []
    carry_out = shmclient.aio.AsyncClient._carry_out

    async def count(self: shmclient.aio.AsyncClient, step: Any, channel: Any) -> object:
        steps.append(type(step))
        return await carry_out(self, step, channel)

    async with reading(machine.path, wait=1) as reader:

        async def wait(road: str) -> None:
            with pytest.raises(shmclient.WaitTimeout, match="no host answered"):
                await reader.next(road)

        machine.kill()
        monkeypatch.setattr(shmclient.aio.AsyncClient, "_carry_out", count)
        async with anyio.create_task_group() as tasks:
            for road in ROADS:
                tasks.start_soon(wait, road)
    assert steps.count(Connect) < 100
    assert len(steps) < 500


async def test_follow_gives_each_value_once_without_a_host(
    machine: Machine, arena: shmclient.Arena, reader: Reader
) -> None:
    machine.kill()
    for number in range(1, 30):
        async with anyio.create_task_group() as tasks:
            waiting = Waiting(reader, tasks)
            tasks.start_soon(waiting._wait, "follow")
            await anyio.lowlevel.checkpoint()
            arena["x"] = b"%d" % number
        assert waiting.values == [b"%d" % number]


async def test_close_of_the_client_ends_waits_without_a_host(
    machine: Machine, arena: shmclient.Arena, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(machine.path) as client:
        reader = Reader(client, 60)
        await reader.start()

        async def wait(road: str) -> None:
            with pytest.raises((shmclient.ClientClosed, shmclient.Closed)):
                await reader.next(road)

        async with anyio.create_task_group() as tasks:
            for road in ROADS:
                tasks.start_soon(wait, road)
            await reader.asleep(len(ROADS))
            machine.kill()
            await reader.without_host()
            await client.aclose()


async def test_loop_hears_of_the_end_of_the_host_at_once(
    machine: Machine, arena: shmclient.Arena, reader: Reader, anyio_backend_name: str
) -> None:
    """Long before it looks again: that is not due for an hour here."""
    if anyio_backend_name != "asyncio":
        pytest.skip("for asyncio")
    loop = asyncio.get_running_loop()
    async with anyio.create_task_group() as tasks:
        waiting = Waiting(reader, tasks)
        await waiting.start("wait")
        bell: Any = reader.client._core.channel._rests._bell  # type: ignore[union-attr]
        bell._timer.cancel()
        bell._timer = loop.call_later(3600, bell._look_again)
        machine.kill()
        await reader.without_host()
        arena["x"] = b"1"


async def test_nothing_is_left_open_after_hosts_came_and_went(
    machine: Machine, owner: shmclient.Client, anyio_backend: str
) -> None:
    counts = []
    for _ in range(3):
        with start_camera(owner, b"0") as camera:
            async with reading(machine.path) as reader, anyio.create_task_group() as tasks:
                waiting = Waiting(reader, tasks)
                await waiting.start("follow")
                machine.kill()
                await reader.without_host()
                camera["x"] = b"1"
            assert waiting.values == [b"1"]
            machine.start()
            del reader, waiting, tasks
        assert owner.list("nothing") == []
        counts.append(count_descriptors())
    assert counts[2] <= counts[1]


async def test_arena_that_is_back_gives_no_value_twice_and_loses_none(
    machine: Machine, arena: shmclient.Arena, reader: Reader
) -> None:
    """Values come before the host is killed, without one, and at the next one."""
    for number in range(0, 9, 3):
        async with anyio.create_task_group() as tasks:
            waiting = Waiting(reader, tasks)
            await waiting.start(*ROADS)
            machine.kill()
            await reader.without_host()
            arena["x"] = b"%d" % (number + 1)
        assert waiting.values == [b"%d" % (number + 1)] * 5
        reader.generation = reader.view.open("x").generation
        async with anyio.create_task_group() as tasks:
            waiting = Waiting(reader, tasks)
            await waiting.start(*ROADS)
            before = reader.client._core.channel
            await anyio.to_thread.run_sync(machine.start)
            await until(lambda before=before: reader.client._core.channel is not before)  # type: ignore[misc]
            await reader.asleep(len(ROADS))
            assert waiting.values == []
            arena["x"] = b"%d" % (number + 2)
        assert waiting.values == [b"%d" % (number + 2)] * 5
        reader.generation = reader.view.open("x").generation
