"""Tasks that wait for values of arenas, on asyncio and trio: `wait`, `get`, `follow` and `changes`."""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

import shmclient
import shmclient.aio
from arena_support import CAMERA_SIZE, SLOTS
from shmclient import Arena, ArenaChange
from support import Machine, WatchedHost, wait_until

pytestmark = pytest.mark.anyio


async def rested(host: WatchedHost) -> None:
    """Return when the tasks of this loop rest, and the host knows of it."""
    await anyio.wait_all_tasks_blocked()
    await anyio.to_thread.run_sync(lambda: wait_until(lambda: host.counts()["ledgers"] > 0))
    await anyio.wait_all_tasks_blocked()


async def test_wait_is_woken_by_another_thread(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    view = await ashm.open_arena("camera")
    seen = [b""]

    async def follow() -> None:
        generation = 0
        while seen[-1] != b"end":
            value = await view.wait("x", after=generation, wait=30)
            generation = value.generation
            seen.append(bytes(value.data))

    def write() -> None:
        for number in range(50):
            arena["x"] = b"%d" % number
            wait_until(lambda number=number: seen[-1] == b"%d" % number)  # type: ignore[misc]
        arena["x"] = b"end"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        await rested(host)
        await anyio.to_thread.run_sync(write)
    assert seen[1:] == [*(b"%d" % number for number in range(50)), b"end"]


OWNER = """
import sys, shmclient
with shmclient.connect(sys.argv[1]) as shm, shm.arena("camera", 8 << 20) as arena:
    print("ready", flush=True)
    for line in sys.stdin:
        arena["x"] = line.strip().encode()
"""


@contextlib.contextmanager
def owner_elsewhere(host: WatchedHost) -> Iterator[Callable[[str], None]]:
    """Give a function that has another process, the owner of the arena, put a value of `x`."""
    command = [sys.executable, "-c", OWNER, host.socket_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def put(value: str) -> None:
            assert process.stdin is not None
            process.stdin.write(f"{value}\n")
            process.stdin.flush()

        yield put


async def test_all_who_rest_are_woken_by_another_process(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient
) -> None:
    with owner_elsewhere(host) as put:
        got: list[bytes] = []

        async def get(after: int | None) -> None:
            got.append(bytes(await ashm.get("camera/x", after=after, wait=30)))

        for number in range(10):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(get, number)
                await rested(host)
                put(str(number))
        assert got == [b"%d" % number for number in range(10) for _ in range(3)]


async def test_wait_times_out(ashm: shmclient.aio.AsyncClient, arena: Arena) -> None:
    view = await ashm.open_arena("camera")
    with pytest.raises(shmclient.WaitTimeout, match=r"'x' in the arena 'camera' .* within 0.02 s"):
        await view.wait("x", wait=0.02)
    generation = arena.put("x", b"1")
    with pytest.raises(shmclient.WaitTimeout):
        await view.wait("x", after=generation, wait=0.02)
    with pytest.raises(shmclient.WaitTimeout):
        await ashm.get("camera/never", wait=0.02)


async def test_get_waits_for_an_arena(host: WatchedHost, ashm: shmclient.aio.AsyncClient) -> None:
    got: list[bytes] = []

    async def get() -> None:
        got.append(bytes(await ashm.get("later/x", wait=30)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        arena = await ashm.arena("later", CAMERA_SIZE)
        await rested(host)
        arena["x"] = b"1"
    assert got == [b"1"]
    arena.close()


async def test_changes_tell_of_each_name(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    view = await ashm.open_arena("camera")
    arena.update({"a": b"1", "b": b"2"})
    arena.remove("a")
    changes = [change async for change in view.changes(since=0, wait=0.02)]
    assert changes == [ArenaChange("b", 2, False), ArenaChange("a", 3, True)]
    seen: list[ArenaChange] = []

    async def listen() -> None:
        async with contextlib.aclosing(view.changes(wait=30)) as later:
            async for change in later:
                seen.append(change)
                if change.name == "end":
                    break

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        for number in range(20):
            await rested(host)
            assert len(seen) == number
            arena["c"] = b"3"
        await rested(host)
        arena["end"] = b"4"
    assert [change.generation for change in seen] == list(range(4, 25))


async def test_follow_yields_each_newest_value(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    arena["x"] = b"first"
    seen: list[bytes] = []

    async def listen(follow: shmclient.aio.AsyncFollow) -> None:
        async for value in follow:
            seen.append(bytes(value))  # noqa: PERF401 the test looks at it meanwhile

    async with anyio.create_task_group() as tasks:
        follow = ashm.follow("camera/x")
        tasks.start_soon(listen, follow)
        await rested(host)
        arena["x"] = b"passed over"
        arena["x"] = b"second"
        await rested(host)
        arena.remove("x")
        await rested(host)
        arena["x"] = b"third"
        await rested(host)
        follow.close()  # ends the loop
    assert seen == [b"first", b"second", b"third"]


async def test_followed_name_is_a_region_then_in_an_arena(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient
) -> None:
    (await ashm.put("n/x", b"region")).close()
    follow = ashm.follow("n/x")
    assert bytes(await anext(follow)) == b"region"
    await ashm.unlink("n/x")
    with await ashm.arena("n", CAMERA_SIZE) as arena:
        arena["x"] = b"arena"
        assert bytes(await anext(follow)) == b"arena"
        arena["x"] = b"newer"
        assert bytes(await anext(follow)) == b"newer"
    await ashm.unlink("n")
    (await ashm.put("n/x", b"again")).close()
    assert bytes(await anext(follow)) == b"again"
    follow.close()


async def test_replaced_arena_is_seen_by_all_who_rest(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    arena["x"] = b"old"
    view = await ashm.open_arena("camera")
    generation = view.open("x").generation
    seen: dict[str, object] = {}

    async def wait() -> None:
        seen["wait"] = bytes((await view.wait("x", after=generation, wait=30)).data)

    async def get() -> None:
        seen["get"] = bytes(await ashm.get("camera/x", after=generation, wait=30))

    async def follow() -> None:
        async with contextlib.aclosing(ashm.follow("camera/x")) as values:
            assert bytes(await anext(values)) == b"old"
            seen["follow"] = bytes(await anext(values))

    async def listen() -> None:
        async with contextlib.aclosing(view.changes(wait=30)) as changes:
            async for change in changes:
                seen["changes"] = change.name
                break

    async with anyio.create_task_group() as tasks:
        for task in (wait, get, follow, listen):
            tasks.start_soon(task)
        await rested(host)
        with await ashm.arena("camera", CAMERA_SIZE) as other:
            other["y"] = b"another name first"
            other["x"] = b"new"
            await anyio.to_thread.run_sync(lambda: wait_until(lambda: len(seen) == 4))
    assert seen == {"wait": b"new", "get": b"new", "follow": b"new", "changes": "y"}
    assert bytes(view["x"]) == b"new"


async def test_more_tasks_rest_than_a_ledger_has_places(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    count, seen = SLOTS + 96, []
    view = await ashm.open_arena("camera")

    async def wait(number: int) -> None:
        value = await view.wait(f"n{number}", wait=50)
        seen.append((number, bytes(value.data)))

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(wait, number)
        reader = ashm._core.arenas["camera"]
        slots = [reader._arm(None) for _ in range(2)]
        while 0 not in slots:  # until all places are taken by the tasks
            for slot in filter(None, slots):
                reader._disarm(slot)
            await anyio.sleep(0.01)
            slots = [reader._arm(None) for _ in range(2)]
        for slot in filter(None, slots):
            reader._disarm(slot)
        for number in reversed(range(count)):
            arena[f"n{number}"] = b"%d" % number
    assert sorted(seen) == [(number, b"%d" % number) for number in range(count)]
    slots = [reader._arm(None) for _ in range(SLOTS)]
    assert all(slots)  # none was lost
    for slot in slots:
        reader._disarm(slot)


async def test_close_ends_all_who_rest(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    arena["x"] = b"1"
    view = await ashm.open_arena("camera")
    ends: list[object] = []

    async def end_of(call: Callable[[], Awaitable[object]]) -> None:
        try:
            ends.append(await call())
        except shmclient.ShmError as error:
            ends.append(type(error))

    async def follow() -> object:
        return [bytes(value) async for value in ashm.follow("camera/x")]

    async def listen() -> object:
        return [change async for change in view.changes()]

    async with anyio.create_task_group() as tasks:
        for call in (
            lambda: view.wait("y"),
            lambda: ashm.get("camera/y", wait=30),
            follow,
            listen,
        ):
            tasks.start_soon(end_of, call)
        await rested(host)
        await ashm.aclose()
    assert ends == [shmclient.ClientClosed] * 4
    assert bytes(view["x"]) == b"1"  # what is mapped stays
    with pytest.raises(shmclient.ClientClosed):
        await view.wait("x")


async def test_wait_asks_no_host(machine: Machine, anyio_backend: str) -> None:
    """Once the host knows that somebody rests in an arena, a value comes from the owner alone."""
    async with await shmclient.aio.connect(machine.path) as ashm:
        with await ashm.arena("camera", CAMERA_SIZE) as arena:
            view = await ashm.open_arena("camera")
            with pytest.raises(shmclient.WaitTimeout):
                await view.wait("x", wait=0.01)
            machine.signal(signal.SIGSTOP)
            for number in range(1, 10):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(functools.partial(view.wait, "x", after=number - 1, wait=30))
                    await anyio.wait_all_tasks_blocked()
                    arena["x"] = b"%d" % number
            machine.signal(signal.SIGCONT)


async def test_wait_goes_on_without_a_host(machine: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(machine.path) as ashm:
        arena = await ashm.arena("camera", CAMERA_SIZE)
        view = await ashm.open_arena("camera")
        seen: list[object] = []

        async def wait() -> None:
            seen.append(bytes((await view.wait("x", wait=30)).data))

        async def listen() -> None:
            async with contextlib.aclosing(view.changes(wait=30)) as changes:
                async for change in changes:
                    seen.append(change.name)
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            machine.kill()
            arena["x"] = b"1"
        assert sorted(seen, key=str) == [b"1", "x"]
        arena.close()


async def test_changes_end_with_the_time_after_the_arena(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    view = await ashm.open_arena("camera")
    await ashm.unlink("camera")
    assert [change async for change in view.changes(wait=0.05)] == []
    wait_until(lambda: host.counts()["listeners"] == 0)
