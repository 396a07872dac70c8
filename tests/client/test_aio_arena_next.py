"""The next value of a name in an arena, in an event loop: asyncio by the short road, trio by the other."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import shmclient
import shmclient.aio
from arena_support import Sleepers
from shmclient import Arena
from support import WatchedHost

pytestmark = pytest.mark.anyio

SIZE = 8 << 20
NEVER = 1 << 40  # a generation that no value has
ROADS = ["follow", "wait", "get", "open"]


@pytest.fixture
def arena(shm: shmclient.Client) -> Iterator[Arena]:
    with shm.arena("camera", SIZE, names=100) as camera:
        camera["x"] = b"1"
        yield camera


async def until(is_so: Callable[[], bool]) -> None:
    """Return when something is so, while the other tasks of the loop run."""
    with anyio.fail_after(30):
        while not is_so():  # noqa: ASYNC110 nobody tells
            await anyio.sleep(0.001)


class Other:
    """A client that reads, with `x` of the arena followed; its host knows that it may sleep."""

    def __init__(self, client: shmclient.aio.AsyncClient, is_short: bool) -> None:
        self.client = client
        self.is_short = is_short  # the road
        self.plain: list[str] = []  # the operations of the plain road

    async def start(self) -> None:
        self.view = await self.client.open_arena("camera")
        self.reader: Any = self.client._core.arenas["camera"]
        while not self.reader.is_attended:  # the time may be over before the host is told
            with pytest.raises(shmclient.WaitTimeout):
                await self.view.wait("x", after=NEVER, wait=0.01)
        self._sleepers = Sleepers(self.reader)
        self.follow = self.client.follow("camera/x")
        assert bytes(await anext(self.follow)) == b"1"
        self.generation = self.view.open("x").generation
        drive = self.client._drive

        def note(operation: Any, channel: Any = None) -> Any:
            self.plain.append(operation.__name__)
            return drive(operation, channel)

        self.client._drive = note  # type: ignore[method-assign]

    def sleepers(self) -> int:
        return self._sleepers.count()

    async def rested(self, count: int) -> None:
        await until(lambda: self.sleepers() == count)

    async def next(self, road: str) -> bytes:
        """Return what is newer than the first value."""
        after = self.generation
        if road == "follow":
            return bytes(await anext(self.follow))
        if road == "wait":
            return bytes((await self.view.wait("x", after=after, wait=30)).data)
        if road == "get":
            return bytes(await self.client.get("camera/x", after=after, wait=30))
        return bytes((await self.client.open("camera/x", after=after, wait=30)).data)


@pytest.fixture
async def other(host: WatchedHost, arena: Arena, anyio_backend_name: str) -> AsyncIterator[Other]:
    async with await shmclient.aio.connect(host.socket_path) as client:
        reader = Other(client, anyio_backend_name == "asyncio")
        await reader.start()
        yield reader
        del client._drive
        vars(reader).clear()  # whoever keeps it does not keep the arena mapped, at an address of another test


async def end_of(call: Awaitable[object], ends: list[object]) -> None:
    """Note the result of a call, or the class of its error."""
    try:
        ends.append(await call)
    except (shmclient.ShmError, StopAsyncIteration) as error:
        ends.append(type(error))


@pytest.mark.parametrize("road", ROADS)
async def test_value_that_is_there_comes_by_the_short_road(road: str, arena: Arena, other: Other) -> None:
    arena["x"] = b"2"
    assert await other.next(road) == b"2"
    assert (
        other.plain == ([] if other.is_short or road != "follow" else ["_next", "next"]) or road == "follow"
    )


@pytest.mark.parametrize("road", ROADS)
async def test_value_wakes_who_waits(road: str, arena: Arena, other: Other) -> None:
    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_of, other.next(road), ends)
        await other.rested(1)
        arena["y"] = b"another name"
        arena["x"] = b"2"
    assert (ends, other.sleepers()) == ([b"2"], 0)
    if other.is_short:
        assert other.plain == []


async def test_value_wakes_all_who_wait(arena: Arena, other: Other) -> None:
    ends: list[object] = []
    roads = ROADS + ["wait"] * 8
    async with anyio.create_task_group() as tasks:
        for road in roads:
            tasks.start_soon(end_of, other.next(road), ends)
        await other.rested(len(roads))
        arena["x"] = b"2"
    assert (ends, other.sleepers()) == ([b"2"] * len(roads), 0)


@pytest.mark.parametrize("road", ROADS)
async def test_cancelled_wait_leaves_nothing(road: str, arena: Arena, other: Other) -> None:
    for number in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.next, road)
            await other.rested(1)
            if number:  # both come in one turn of the loop
                arena["z"] = b"%d" % number
            tasks.cancel_scope.cancel()
        assert other.sleepers() == 0
    arena["x"] = b"2"
    assert await other.next(road) == b"2"


async def test_value_and_cancellation_in_one_turn(arena: Arena, other: Other) -> None:
    """The value may be lost with the task that had it, but no place in the ledger, and no later value."""
    for number in range(2, 20):
        generation = arena.put("x", b"before")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(functools.partial(other.view.wait, "x", after=generation, wait=30))
            await other.rested(1)
            if number % 2:
                arena["x"] = b"%d" % number
                tasks.cancel_scope.cancel()
            else:
                tasks.cancel_scope.cancel()
                arena["x"] = b"%d" % number
        assert other.sleepers() == 0
    assert await other.next("follow") == b"19"


async def test_two_tasks_share_a_follow(arena: Arena, other: Other) -> None:
    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(end_of, other.next("follow"), ends)
        await other.rested(1)
        arena["x"] = b"2"
        await until(lambda: bool(ends))
        await other.rested(1)
        arena["x"] = b"3"
    assert ends == [b"2", b"3"]


@pytest.mark.parametrize("road", ROADS)
async def test_close_of_the_client_ends_a_wait(road: str, other: Other) -> None:
    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_of, other.next(road), ends)
        await other.rested(1)
        await other.client.aclose()
    assert ends == [shmclient.ClientClosed]


async def test_close_of_a_follow_ends_its_wait(arena: Arena, other: Other) -> None:
    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_of, other.next("follow"), ends)
        await other.rested(1)
        other.follow.close()
    assert (ends, other.sleepers()) == ([StopAsyncIteration], 0)
    arena["x"] = b"2"
    assert [value async for value in other.follow] == []


@pytest.mark.parametrize("road", ROADS)
async def test_wait_goes_on_in_the_next_arena(
    road: str, shm: shmclient.Client, arena: Arena, other: Other
) -> None:
    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_of, other.next(road), ends)
        await other.rested(1)
        second = await anyio.to_thread.run_sync(lambda: shm.arena("camera", SIZE))
        second["x"] = b"second"
    assert ends == [b"second"]
    second.close()


@pytest.mark.parametrize("road", ROADS)
async def test_wait_outlives_the_removal_of_the_name(road: str, arena: Arena, other: Other) -> None:
    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_of, other.next(road), ends)
        await other.rested(1)
        arena.remove("x")
        await anyio.lowlevel.checkpoint()
        arena["x"] = b"2"
    assert ends == [b"2"]


@pytest.mark.parametrize("road", ["wait", "get", "open"])
async def test_wait_takes_the_time_that_was_asked_for(road: str, arena: Arena, other: Other) -> None:
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "wait": lambda: other.view.wait("x", after=NEVER, wait=0.02),
        "get": lambda: other.client.get("camera/x", after=NEVER, wait=0.02),
        "open": lambda: other.client.open("camera/x", after=NEVER, wait=0.02),
    }
    with pytest.raises(shmclient.WaitTimeout, match=r"no generation after 1099511627776 within 0\.02 s"):
        await calls[road]()
    assert other.sleepers() == 0


async def test_woken_task_may_end_the_others(arena: Arena, other: Other) -> None:
    """It goes on in the callback of the event, in which the others are about to be woken."""
    seen: list[bytes] = []

    async def end_others(tasks: anyio.abc.TaskGroup) -> None:
        await other.next("wait")
        seen.append(b"first")
        tasks.cancel_scope.cancel()
        await other.client.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_others, tasks)
        await other.rested(1)
        for _ in range(3):
            tasks.start_soon(other.next, "get")
        await other.rested(4)
        arena["x"] = b"2"
    assert seen[:1] == [b"first"]


async def test_woken_task_that_closes_the_client_closes_the_event(arena: Arena, other: Other) -> None:
    channel: Any = other.client._core.channel
    ledger, generation, states = channel.context.ledger, other.generation, []

    async def end() -> None:
        await other.view.wait("x", after=generation, wait=30)
        await other.client.aclose()
        states.append((channel.has_waits, len(ledger._event)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        await other.rested(1)
        arena["x"] = b"2"
    assert states == [(False, 0)]


async def test_event_of_a_closed_client_goes_with_the_last_task(other: Other) -> None:
    ledger: Any = other.client._core.channel.context.ledger  # type: ignore[union-attr]

    async def watch() -> None:
        async for _ in other.view.changes():
            raise AssertionError("nothing changes")

    ends: list[object] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(end_of, watch(), ends)
        await other.rested(2)
        await other.client.aclose()
    assert (ends, len(ledger._event)) == ([shmclient.ClientClosed] * 2, 0)


@pytest.mark.parametrize("road", ROADS)
async def test_value_that_cannot_be_held_is_an_error_of_the_task(
    road: str, arena: Arena, other: Other
) -> None:
    ends: list[object] = []
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_of, other.next(road), ends)
            await other.rested(1)
            held = []
            with contextlib.suppress(shmclient.QuotaExceeded):
                while True:
                    held.append(other.reader._hold("x"))
            arena["x"] = b"2"
    assert (ends, other.sleepers()) == ([shmclient.QuotaExceeded], 0)


async def test_signal_handler_may_end_a_wait_while_others_are_looked_at(arena: Arena, other: Other) -> None:
    """Here it comes while the first of three waits is asked whether it is over."""
    if not other.is_short:
        pytest.skip("for asyncio")
    second = other.client.follow("camera/x")
    assert bytes(await anext(second)) == b"1"
    generation = arena.put("y", b"1")
    signals = [signal.SIGUSR1]

    def has_closed() -> bool:
        while signals:
            signal.raise_signal(signals.pop())
        return False

    other.follow._source.listener.has_closed = has_closed
    ends: list[object] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: second.close())
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end_of, anext(other.follow), ends)
            await other.rested(1)
            tasks.start_soon(end_of, anext(second), ends)
            await other.rested(2)
            with anyio.fail_after(0.5):  # the loop itself looks once a second
                tasks.start_soon(end_of, other.view.wait("y", after=generation, wait=30), ends)
                await other.rested(3)
                arena["y"] = b"2"
                await until(lambda: len(ends) == 2)
            assert not signals
            arena["x"] = b"2"
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (StopAsyncIteration in ends, ends[2:]) == (True, [b"2"])


async def test_loop_watches_the_event_once(arena: Arena, other: Other) -> None:
    if not other.is_short:
        pytest.skip("for asyncio")
    loop = asyncio.get_running_loop()
    added: list[int] = []
    add_reader = loop.add_reader

    def note(descriptor: Any, *args: Any) -> None:
        added.append(descriptor)
        add_reader(descriptor, *args)

    loop.add_reader = note  # type: ignore[method-assign, assignment]
    try:
        for number in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(other.next, "follow")
                await other.rested(1)
                arena["x"] = b"%d" % number
    finally:
        del loop.add_reader  # type: ignore[method-assign]
    event = other.client._core.channel.context.ledger.fileno()  # type: ignore[union-attr]
    assert added.count(event) <= 1
    assert loop.remove_reader(event)  # it was watched all the time
    loop.add_reader(event, lambda: None)
    await other.client.aclose()
    assert not loop.remove_reader(event)


async def test_loop_stops_to_watch_the_event_of_a_client_that_waits_for_nothing(
    arena: Arena, other: Other
) -> None:
    if not other.is_short:
        pytest.skip("for asyncio")
    rests = other.client._core.channel._rests  # type: ignore[union-attr]
    await until(lambda: rests._bell is not None and rests._bell._timer is None)
    arena["x"] = b"2"
    assert await other.next("follow") == b"2"


async def test_wait_of_asyncio_works_with_its_own_tools(arena: Arena, other: Other) -> None:
    if not other.is_short:
        pytest.skip("for asyncio")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(anext(other.follow), 0.01)
    assert other.sleepers() == 0
    tasks = [asyncio.ensure_future(other.next(road)) for road in ROADS]
    await other.rested(4)
    tasks[1].cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await tasks[1]
    arena["x"] = b"2"
    assert await asyncio.gather(tasks[0], *tasks[2:]) == [b"2"] * 3
