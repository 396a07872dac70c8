"""`get` and `open` after a generation, which they may wait for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

import shmclient
import shmclient.aio
from support import Machine, WatchedHost, count_waits, wait_until


def test_get_after_a_generation_gives_a_greater_one_alone(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.RegionNotFound, match="there is no such name"):
        shm.get("x", after=0)
    shm.put("x", b"1").close()
    generation = shm.stat("x").generation
    assert bytes(shm.get("x", after=generation - 1)) == b"1"
    with pytest.raises(
        shmclient.RegionNotFound, match=f"after {generation}: the current one is {generation}"
    ):
        shm.get("x", after=generation)
    with pytest.raises(shmclient.WaitTimeout, match=f"after {generation} in time"):
        shm.open("x", after=generation, wait=0.05)
    with pytest.raises(shmclient.InvalidArgument, match="number of a generation"):
        shm.get("x", after="1")  # type: ignore[arg-type]


def test_open_after_a_generation_waits_for_it(host: WatchedHost, shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(shm.open, "x", after=region.generation + 1, wait=60)
        wait_until(lambda: count_waits(host) == 1)
        for value in (b"2", b"3"):
            shm.put("x", value).close()
        newer = waiting.result(30)
    assert (bytes(newer.data), newer.generation) == (b"3", region.generation + 2)
    wait_until(lambda: count_waits(host) == 0)


@pytest.mark.anyio
async def test_async_get_after_a_generation_waits_over_a_killed_host(
    machine: Machine, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(machine.path) as ashm:
        region = await ashm.put("x", b"1")
        values = []

        async def get() -> None:
            values.append(bytes(await ashm.get("x", after=region.generation, wait=60)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(get)
            await anyio.wait_all_tasks_blocked()
            machine.kill()
            machine.start()
            (await ashm.put("x", b"2")).close()
        assert values == [b"2"]
        async with await ashm.open("x", after=region.generation) as newer:
            assert newer.generation > region.generation
