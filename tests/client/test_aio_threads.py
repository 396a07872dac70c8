"""A large `put` of the async client writes in a thread: nothing is closed under it, however the task ends."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from pathlib import Path

import anyio
import pytest

import shmclient
import shmclient.aio
from support import WatchedHost, count_descriptors, wait_until

PIECE = 16 * 1024 * 1024  # bytes between two calls of `progress`


class Pause:
    """A `progress` function that waits in its thread at the first call."""

    def __init__(self) -> None:
        self.is_inside, self.may_go_on = threading.Event(), threading.Event()
        self.calls = 0

    def __call__(self, done: int) -> None:
        self.calls += 1
        self.is_inside.set()
        assert self.may_go_on.wait(30)


def test_put_that_asyncio_cancels_writes_to_no_other_file(host: WatchedHost, tmp_path: Path) -> None:
    async def main() -> None:
        pause = Pause()
        async with await shmclient.aio.connect(host.socket_path) as shm:
            before = count_descriptors()
            put = asyncio.create_task(shm.put("x", bytes(3 * PIECE), progress=pause))
            await asyncio.to_thread(pause.is_inside.wait, 30)
            put.cancel()
            await asyncio.wait([put], timeout=0.1)
            # The numbers that are free now, as those of files that the program opens meanwhile.
            files = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(8)]
            pause.may_go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await put
            wait_until(lambda: pause.calls == 4)  # three pieces, and the metadata
            assert [os.fstat(file).st_size for file in files] == [0] * 8
            for file in files:
                os.close(file)
            assert not await shm.exists("x")
            wait_until(lambda: count_descriptors() == before)

    asyncio.run(main())


@pytest.mark.anyio
async def test_cancelled_put_waits_for_its_thread(host: WatchedHost, anyio_backend: str) -> None:
    pause = Pause()
    async with await shmclient.aio.connect(host.socket_path) as shm, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: shm.put("x", bytes(3 * PIECE), progress=pause))
        await anyio.to_thread.run_sync(pause.is_inside.wait, 30)
        tasks.cancel_scope.cancel()
        pause.may_go_on.set()
    assert pause.calls == 4


@pytest.mark.anyio
async def test_error_in_the_thread_is_raised_and_keeps_nothing(host: WatchedHost, anyio_backend: str) -> None:
    class Local:
        pass

    def fail(done: int) -> None:
        raise ZeroDivisionError

    async def use(shm: shmclient.aio.AsyncClient) -> weakref.ref[Local]:
        local = Local()
        with pytest.raises(ZeroDivisionError):
            await shm.put("x", bytes(PIECE), progress=fail)
        return weakref.ref(local)

    async with await shmclient.aio.connect(host.socket_path) as shm:
        gc.collect()
        gc.disable()
        try:
            local = await use(shm)
            wait_until(lambda: local() is None)  # once the thread is idle
        finally:
            gc.enable()
