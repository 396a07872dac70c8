"""Arenas by the async client on asyncio and trio: owned in a loop, read by tasks that rest."""

from __future__ import annotations

import contextlib
import gc
import random
import threading

import anyio
import anyio.from_thread
import anyio.to_thread
import numpy as np
import pytest

import shmclient
import shmclient.aio
from arena_support import CAMERA_SIZE, SLOTS
from shmclient import Arena, ArenaValue
from support import Machine, WatchedHost, count_descriptors, wait_until

pytestmark = pytest.mark.anyio


async def test_arena_is_owned_and_read_in_a_loop(ashm: shmclient.aio.AsyncClient) -> None:
    with await ashm.arena("camera", CAMERA_SIZE) as arena:
        arena["front"] = np.arange(12).reshape(3, 4)
        with arena.loan("left", (2, 2), "f4") as image:
            image[:] = 7
        assert (await ashm.get("camera/front")).tolist() == np.arange(12).reshape(3, 4).tolist()
        view = await ashm.open_arena("camera")
        assert (sorted(view), view["left"].tolist(), view.get("right")) == (
            ["front", "left"],
            [[7, 7]] * 2,
            None,
        )
        assert view.open("left").generation == view.generation == 2
        with pytest.raises(KeyError):
            view["right"]
        with pytest.raises(shmclient.RegionNotFound):
            await ashm.get("camera/right")
        with pytest.raises(shmclient.InvalidArgument, match="use open_arena"):
            await ashm.get("camera")
        handle = await ashm.open("camera/left")
        assert isinstance(handle, ArenaValue)
        assert handle.array.sum() == 28


async def test_cancellation_at_any_point_leaks_nothing(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient, arena: Arena
) -> None:
    arena["x"] = np.arange(100)
    view = await ashm.open_arena("camera")
    with contextlib.suppress(shmclient.WaitTimeout):
        await view.wait("x", after=view.generation, wait=0.001)  # which makes descriptors that stay
    gc.collect()
    before, randomly = host.counts(), random.Random(7)

    async def use() -> None:
        with await ashm.arena("mine", CAMERA_SIZE, keep=False) as mine:
            mine["y"] = b"1"
            assert bytes((await ashm.open_arena("mine"))["y"]) == b"1"
        assert (await ashm.get("camera/x")).sum() == 4950
        with contextlib.suppress(shmclient.WaitTimeout):
            await view.wait("x", after=view.generation, wait=0.001)
        async with contextlib.aclosing(view.changes(wait=0.001)) as changes:
            async for _ in changes:
                pass
        async with contextlib.aclosing(ashm.follow("camera/x")) as values:
            await anext(values)
            await anext(values)  # never comes

    for _ in range(150):
        with anyio.move_on_after(randomly.random() * 0.02), contextlib.suppress(shmclient.RegionBusy):
            await use()
    with anyio.fail_after(20):  # a request lets go of arenas that have ended: once the host has seen that
        while host.counts() | {"threads": 0} != before | {"threads": 0}:
            await ashm.list()
            gc.collect()
    reader = ashm._core.arenas["camera"]
    slots = [reader._arm(None) for _ in range(SLOTS)]
    assert all(slots)
    for slot in slots:
        reader._disarm(slot)
    arena["x"] = b"still"
    assert bytes(await ashm.get("camera/x")) == b"still"


async def test_closed_client_gives_all_back(host: WatchedHost, arena: Arena, anyio_backend: str) -> None:
    before, descriptors = host.counts(), count_descriptors()
    async with await shmclient.aio.connect(host.socket_path) as ashm:
        arena["x"] = b"1"
        view = await ashm.open_arena("camera")
        value = view["x"]
        with contextlib.suppress(shmclient.WaitTimeout):
            await view.wait("y", wait=0.01)
    assert bytes(value) == b"1"
    del value, view, ashm

    def settled() -> bool:
        gc.collect()
        return bool(host.counts() | {"threads": 0} == before | {"threads": 0})

    await anyio.to_thread.run_sync(lambda: wait_until(settled))
    assert count_descriptors() == descriptors


async def test_another_loop_is_refused(ashm: shmclient.aio.AsyncClient, arena: Arena) -> None:
    arena["x"] = b"1"
    view = await ashm.open_arena("camera")

    async def use() -> None:
        assert bytes(view["x"]) == b"1"  # makes no request, and is for any thread
        for call in (
            lambda: view.wait("x"),
            lambda: anext(view.changes()),
            lambda: ashm.arena("mine", CAMERA_SIZE),
            lambda: ashm.open_arena("camera"),
        ):
            with pytest.raises(shmclient.WrongEventLoop):
                await call()

    await anyio.to_thread.run_sync(lambda: anyio.run(use))
    assert bytes((await view.wait("x")).data) == b"1"


async def test_owner_writes_in_threads_of_the_loop(ashm: shmclient.aio.AsyncClient) -> None:
    """The loop reads what it sees meanwhile, and each value is whole."""
    with await ashm.arena("camera", CAMERA_SIZE) as arena:
        arena["x"] = np.zeros(10_000)
        stop = threading.Event()

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                arena["x"] = np.full(10_000, number)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(anyio.to_thread.run_sync, write)
            view = await ashm.open_arena("camera")
            generation = 0
            for _ in range(100):
                value = await view.wait("x", after=generation, wait=30)
                assert value.generation > generation
                generation = value.generation
                assert (value.array == value.array[0]).all()
            stop.set()


async def test_arena_grows_without_blocking_the_loop_for_ever(ashm: shmclient.aio.AsyncClient) -> None:
    with await ashm.arena("camera", 1 << 20, max_size=16 << 20) as arena:
        for number in range(10):
            arena[f"n{number}"] = np.full(1 << 17, number)
        assert (await ashm.get("camera/n9") == 9).all()


async def test_reading_goes_on_without_a_host(machine: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(machine.path) as ashm:
        arena = await ashm.arena("camera", CAMERA_SIZE)
        arena["x"] = b"0"
        view = await ashm.open_arena("camera")
        machine.kill()
        for number in range(20):
            arena["x"] = b"%d" % number
            assert (bytes(view["x"]), bytes(await ashm.get("camera/x"))) == (b"%d" % number, b"%d" % number)
        arena.close()
