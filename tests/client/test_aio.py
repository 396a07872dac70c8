"""The async client on asyncio and trio: the same operations, and cancellation at any point."""

from __future__ import annotations

import contextlib
import gc
import random

import anyio
import numpy as np
import pytest

import shmclient
import shmclient.aio
from support import WatchedHost, count_descriptors, give_spares_back, wait_until

pytestmark = pytest.mark.anyio


async def test_values_come_back(ashm: shmclient.aio.AsyncClient) -> None:
    (await ashm.put("x", {"a": np.arange(5), "b": b"1"})).close()
    got = await ashm.get("x")
    assert (got["a"].tolist(), bytes(got["b"])) == ([0, 1, 2, 3, 4], b"1")


async def test_large_values_come_back(ashm: shmclient.aio.AsyncClient) -> None:
    value = np.arange(1_000_000)
    (await ashm.put("x", value)).close()
    np.testing.assert_array_equal(await ashm.get("x"), value)


async def test_builder_publishes_or_aborts(ashm: shmclient.aio.AsyncClient) -> None:
    async with ashm.create("x", 100) as builder:
        builder.data[:3] = b"abc"
    assert bytes((await ashm.get("x"))[:3]) == b"abc"
    with pytest.raises(ZeroDivisionError):
        async with ashm.create("y", 100):
            raise ZeroDivisionError
    assert [info.name for info in await ashm.list()] == ["x"]


async def test_regions_are_opened_listed_and_unlinked(ashm: shmclient.aio.AsyncClient) -> None:
    for name in ("a", "b"):
        (await ashm.put(name, name.encode())).close()
    regions = await ashm.open_many(["a", "b"])
    assert [bytes(region.data) for region in regions] == [b"a", b"b"]
    assert await regions[0].is_current()
    await ashm.chmod("a", 0o644)
    assert (await ashm.stat("a")).mode == 0o644
    await ashm.unlink("a")
    assert not await regions[0].is_current()
    assert [info.name for info in await ashm.list()] == ["b"]


async def test_watch_starts_with_its_block(ashm: shmclient.aio.AsyncClient) -> None:
    async with ashm.watch("w/") as changes:
        (await ashm.put("w/x", b"1")).close()
        await ashm.unlink("w/x")
        events = [await anext(changes) for _ in range(2)]
    assert [(change.kind, change.info.name) for change in events] == [
        ("published", "w/x"),
        ("unlinked", "w/x"),
    ]


async def test_many_tasks_share_a_client(host: WatchedHost, ashm: shmclient.aio.AsyncClient) -> None:
    async def work(number: int) -> None:
        for turn in range(10):
            (await ashm.put(f"t/{number}", b"%d" % turn)).close()
            assert bytes(await ashm.get(f"t/{number}")) == b"%d" % turn
        assert bytes(await ashm.get("late", wait=20)) == b"here"

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(work, number)
        await anyio.wait_all_tasks_blocked()
        (await ashm.put("late", b"here")).close()
    gc.collect()
    wait_until(lambda: host.counts()["leases"] == 0)


async def test_wait_ends_with_the_time(ashm: shmclient.aio.AsyncClient) -> None:
    with pytest.raises(TimeoutError):
        await ashm.get("never", wait=0.02)


async def test_cancelled_wait_is_over_for_the_host_too(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient
) -> None:
    with anyio.move_on_after(0.02):
        await ashm.get("never", wait=20)
    wait_until(lambda: host.counts()["listeners"] == 0)
    assert await ashm.list() == []


async def test_cancellation_at_any_point_leaks_nothing(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient
) -> None:
    (await ashm.put("x", np.arange(100))).close()
    before, descriptors = host.counts(), count_descriptors()
    randomly = random.Random(7)

    async def use() -> None:
        (await ashm.open("x")).close()
        await ashm.get("x")
        async with ashm.create("temporary", 100) as builder:
            builder.data[:1] = b"x"
        (await ashm.put("temporary", b"1" * 300_000)).close()
        await ashm.unlink("temporary")
        await ashm.get("never", wait=0.01)

    for _ in range(150):
        with anyio.move_on_after(randomly.random() * 0.01):
            with pytest.raises((shmclient.WaitTimeout, shmclient.RegionNotFound, shmclient.RegionBusy)):
                await use()
    await ashm.list()  # whatever replies were left are read by now
    if await ashm.list("temporary"):
        await ashm.unlink("temporary")
    give_spares_back(ashm)
    gc.collect()
    wait_until(lambda: host.counts() | {"threads": 0} == before | {"threads": 0})
    assert count_descriptors() == descriptors
    assert (await ashm.get("x")).sum() == 4950


async def test_dropped_client_connects_anew_and_its_view_stays(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient
) -> None:
    (await ashm.put("x", b"1")).close()
    value = await ashm.get("x")
    host.call(lambda: [link.close() for link in list(host.host._links)])
    assert [info.name for info in await ashm.list()] == ["x"]
    assert bytes(value) == b"1"


async def test_connect_names_the_socket_when_no_host_runs(tmp_path: object, anyio_backend: str) -> None:
    with pytest.raises(shmclient.HostGone, match=r"none\.sock"):
        await shmclient.aio.connect(f"{tmp_path}/none.sock")


async def test_closed_client_says_so(ashm: shmclient.aio.AsyncClient) -> None:
    await ashm.aclose()
    with pytest.raises(shmclient.ClientClosed):
        await ashm.list()


async def test_array_stays_when_it_is_published_and_when_it_is_not(
    host: WatchedHost, ashm: shmclient.aio.AsyncClient
) -> None:
    before = host.counts()
    with pytest.raises(ZeroDivisionError):
        async with ashm.create("x", 4096) as builder:
            given_up = np.frombuffer(builder.data, "u1")
            raise ZeroDivisionError
    async with ashm.create("x", 4096) as builder:
        array = builder.array(16, "u1")
        array[:] = 7
    given_up[:] = 3
    assert (await ashm.get("x")).tolist() == array.tolist() == [7] * 16
    await ashm.unlink("x")
    del given_up, array, builder
    gc.collect()
    wait_until(lambda: host.counts() | {"threads": 0} == before | {"threads": 0})


async def test_watch_is_awaited_entered_or_just_iterated(ashm: shmclient.aio.AsyncClient) -> None:
    async def publish() -> None:
        (await ashm.put("x", b"1")).close()

    awaited = await ashm.watch("x")  # has started: what is published now is not missed
    async with ashm.watch("x") as entered, contextlib.aclosing(await ashm.watch("x")) as closing:
        await publish()
        for changes in (awaited, entered, closing):
            assert (await anext(changes)).info.name == "x"
    awaited.close()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish_again_and_again, ashm, tasks.cancel_scope)
        async for change in ashm.watch("x"):
            assert change.kind == "published"
            break
        tasks.cancel_scope.cancel()


async def publish_again_and_again(ashm: shmclient.aio.AsyncClient, scope: anyio.CancelScope) -> None:
    while not scope.cancel_called:
        (await ashm.put("x", b"1")).close()


async def test_closed_watch_is_over(host: WatchedHost, ashm: shmclient.aio.AsyncClient) -> None:
    changes = await ashm.watch()
    assert host.counts()["listeners"] == 1
    await changes.aclose()
    assert [change async for change in changes] == []
    wait_until(lambda: host.counts()["listeners"] == 0)
