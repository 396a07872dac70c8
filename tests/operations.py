"""What clients do, one operation each, for tests that end them in the middle: see `stepping`."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np
from cffi import FFI

import shmclient
import shmclient.aio
from stepping import begin

LARGE = bytes([7]) * 100_000  # by a spare
SIZE = 1 << 20
HEARD = "heard"  # a name that there is; "camera" is an arena, "new" and "own" may come and go
Sync = Callable[[shmclient.Client], object]
Async = Callable[[shmclient.aio.AsyncClient], Awaitable[object]]


def connect(path: str) -> None:
    begin()
    with shmclient.connect(path) as shm:
        shm.list()


def put_small(shm: shmclient.Client) -> None:
    for value in (b"1", b"22"):
        shm.put("new", value).close()
    shm.put("new", memoryview(b"3")).close()  # by the plain road


def put_large(shm: shmclient.Client) -> None:
    for _ in range(3):
        shm.put("new", LARGE).close()


def put_with_reserve(shm: shmclient.Client) -> None:
    with shmclient.connect(shm.socket_path, reserve=2**20) as reserved:
        for _ in range(2):
            reserved.put("new", LARGE).close()


def build(shm: shmclient.Client) -> None:
    ffi = FFI()
    ffi.cdef("struct node { struct node *next; long value; };")
    with shm.create("new", 4096) as builder:
        node = builder.new(ffi, "struct node *", {"value": 1})
        builder.set_root(node)
    for seal in ("writer", "full"):
        with shm.create("new", 4096, seal=seal) as builder:
            builder.data[:] = b"x" * len(builder.data)


def grow(shm: shmclient.Client) -> None:
    with shm.create("new", 4096, max_size=SIZE, seal="shared") as builder:
        pass
    for size in (20_000, 200_000):
        assert builder.region.resize(size) >= size
        assert builder.region.data[-1] == 0


def give_up(shm: shmclient.Client) -> None:
    with contextlib.suppress(KeyError), shm.create("new", 4096) as builder:
        builder.data[:10] = b"x" * 10
        raise KeyError


def put_by_shm_open(shm: shmclient.Client) -> None:
    for _ in range(2):
        shm.put("new", b"x" * 5000, backend="shm").close()


def read(shm: shmclient.Client) -> None:
    shm.open(HEARD).close()
    value = shm.get(HEARD)
    with shm.open(HEARD) as region:
        assert region.is_current()
        assert bytes(region.data) == bytes(value)
    for region in shm.open_many([HEARD, "own"]):
        region.close()


def wait(shm: shmclient.Client) -> None:
    with contextlib.suppress(shmclient.WaitTimeout):
        shm.get("nothing", wait=0.01)
    with shm.watch("") as changes:
        shm.put("new", b"x").close()
        next(changes)


def manage(shm: shmclient.Client) -> None:
    shm.list()
    shm.stat("own")
    shm.chmod("own", 0o640)
    shm.exists("nothing")
    shm.unlink("own")


def own_arena(shm: shmclient.Client) -> None:
    with shm.arena("new", SIZE, max_size=2 * SIZE) as arena:
        arena["a"] = b"x" * 100
        arena["b"] = np.full(100, 7)
        with arena.loan("b", 100, "u1") as array:
            array[:] = 7
        arena.grow(2 * SIZE)
        arena["b"] = b"y" * 50
        arena.remove("a")
    with shm.arena("new", SIZE, keep=False) as arena:
        arena["a"] = b"z"


def read_arena(shm: shmclient.Client) -> None:
    value = shm.get("camera/front")
    view = shm.open_arena("camera")
    assert set(view["front"].tobytes()) == {*value.tobytes()[:1]} or view.generation
    with contextlib.suppress(shmclient.WaitTimeout):
        shm.get("camera/nothing", wait=0.01)
    list(view)
    del value, view


def snapshot(shm: shmclient.Client) -> None:
    path = f"{shm.socket_path}.{HEARD}"
    shm.save(HEARD, path)
    shm.load(path, name="new", anywhere=True).close()


def read_to_write(shm: shmclient.Client) -> None:
    for name in (HEARD, "camera/front"):
        with contextlib.suppress(ImportError):  # of an array, without torch
            shm.get(name, as_="torch")
    with shm.follow(HEARD, as_="torch") as values:
        next(values)


SYNC: dict[str, Sync] = {
    function.__name__: function
    for function in (
        put_small,
        put_large,
        put_with_reserve,
        build,
        grow,
        give_up,
        put_by_shm_open,
        read,
        wait,
        manage,
        own_arena,
        read_arena,
        snapshot,
        read_to_write,
    )
}


async def async_put(shm: shmclient.aio.AsyncClient) -> None:
    for value in (b"1", LARGE, b"22", LARGE):
        (await shm.put("new", value)).close()


async def async_build(shm: shmclient.aio.AsyncClient) -> None:
    async with shm.create("new", 4096) as builder:
        builder.data[:] = b"x" * len(builder.data)


async def async_read(shm: shmclient.aio.AsyncClient) -> None:
    value = await shm.get(HEARD)
    async with await shm.open(HEARD) as region:
        assert bytes(region.data) == bytes(value)
    with contextlib.suppress(shmclient.WaitTimeout):
        await shm.get("nothing", wait=0.01)


async def async_manage(shm: shmclient.aio.AsyncClient) -> None:
    await shm.list()
    await shm.chmod("own", 0o640)
    async with shm.watch("") as changes:
        await shm.unlink("own")
        await anext(aiter(changes))


async def async_arenas(shm: shmclient.aio.AsyncClient) -> None:
    value = await shm.get("camera/front")
    with await shm.arena("new", SIZE) as arena:
        arena["a"] = b"x" * 100
    del value


ASYNC: dict[str, Async] = {
    function.__name__: function
    for function in (async_put, async_build, async_read, async_manage, async_arenas)
}
NAMES = ["connect", *SYNC, *(f"{name} {backend}" for name in ASYNC for backend in ("asyncio", "trio"))]


def child(name: str, path: str) -> Callable[[], object]:
    """Return what a child does: the operation `name`, from a client that has connected and put before."""
    if name == "connect":
        return lambda: connect(path)
    if name in SYNC:
        return lambda: _run_sync(SYNC[name], path)
    name, backend = name.split()
    return lambda: anyio.run(_run_async, ASYNC[name], path, backend=backend)


def _run_sync(operation: Sync, path: str) -> None:
    with shmclient.connect(path) as shm:
        shm.put("own", LARGE).close()
        shm.get(HEARD)
        begin()
        operation(shm)


async def _run_async(operation: Async, path: str) -> None:
    async with await shmclient.aio.connect(path) as shm:
        (await shm.put("own", LARGE)).close()
        begin()
        await operation(shm)


def is_whole(value: Any) -> bool:
    """Whether a value is one that an operation puts, and no part of one: all its bytes are the same.

    An image of `producer.c` has the sum of both coordinates and of its number.
    """
    array = np.asarray(value)
    if array.ndim == 2:
        y, x = np.indices(array.shape)
        array = (array - x - y).astype("u1")
    return len(set(array.tobytes())) <= 1
