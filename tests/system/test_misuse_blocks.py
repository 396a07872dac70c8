"""Whatever is raised in the middle of a block comes out of it, and nothing is held afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

import shmclient
import shmclient.aio
import shmhost
from misuse import nothing_left
from support import WatchedHost

RAISED = [
    ValueError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopIteration,
    StopAsyncIteration,
    asyncio.CancelledError,
]
Blocks = Callable[[str, BaseException], None]


def in_connect(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm:
        shm.put("a", b"1")
        raise error


def in_create(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm, shm.create("a", 4096) as builder:
        builder.data[0] = 1
        raise error


def in_create_with_a_view_that_stays(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm, shm.create("a", 4096) as builder:
        error.args = (builder.data, builder)
        raise error


def in_open(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm:
        shm.put("a", b"1").close()
        with shm.open("a") as region:
            error.args = (region.data,)
            raise error


def in_watch(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm, shm.watch() as changes:
        shm.put("a", b"1")
        for _ in changes:
            raise error


def in_watch_without_a_block(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm:
        changes = shm.watch()
        shm.put("a", b"1")
        for _ in changes:
            raise error


def in_pinner(path: str, error: BaseException) -> None:
    with shmclient.connect(path) as shm, shmclient.Pinner() as pinner:
        pinner.pin(shm.put("a", b"1"))
        raise error


def in_iovec(path: str, error: BaseException) -> None:
    pinner = shmclient.Pinner()
    with shmclient.connect(path) as shm, pinner.iovec([bytearray(8), shm.put("a", b"1")]):
        raise error


def in_embedded(path: str, error: BaseException) -> None:
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        shm.put("a", b"1")
        raise error


def in_progress(path: str, error: BaseException) -> None:
    def fail(done: int) -> None:
        raise error

    with shmclient.connect(path) as shm:
        shm.put("a", bytes(100), progress=fail)


BLOCKS = [
    in_connect,
    in_create,
    in_create_with_a_view_that_stays,
    in_open,
    in_watch,
    in_watch_without_a_block,
    in_pinner,
    in_iovec,
    in_embedded,
    in_progress,
]


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("block", BLOCKS)
def test_error_comes_out_and_the_name_can_be_used_again(
    block: Blocks, raised: type[BaseException], host: WatchedHost
) -> None:
    with nothing_left(host):
        for _ in range(2):
            error = raised("stop")
            with pytest.raises((raised, RuntimeError)) as caught:
                block(host.socket_path, error)
            assert is_or_caused_by(caught.value, error)
            error.args, error.__traceback__, caught.value.__traceback__ = (), None, None
            del caught  # it has the traceback too, whose frames keep what they use
        with shmclient.connect(host.socket_path) as shm:
            shm.put("a", b"2")


def is_or_caused_by(caught: BaseException, error: BaseException) -> bool:
    """Whether it is the error itself, or what PEP 479 makes of one that ends generators."""
    return caught is error or caught.__cause__ is error


async def in_async_connect(path: str, error: BaseException) -> None:
    async with await shmclient.aio.connect(path) as shm:
        await shm.put("a", b"1")
        raise error


async def in_async_create(path: str, error: BaseException) -> None:
    async with await shmclient.aio.connect(path) as shm, shm.create("a", 4096) as builder:
        builder.data[0] = 1
        raise error


async def in_async_watch(path: str, error: BaseException) -> None:
    async with await shmclient.aio.connect(path) as shm, shm.watch() as changes:
        await shm.put("a", b"1")
        async for _ in changes:
            raise error


async def in_async_pinner(path: str, error: BaseException) -> None:
    async with await shmclient.aio.connect(path) as shm, shmclient.Pinner() as pinner:
        pinner.pin(await shm.put("a", b"1"))
        raise error


ASYNC_BLOCKS = [in_async_connect, in_async_create, in_async_watch, in_async_pinner]


@pytest.mark.parametrize("raised", [ValueError, GeneratorExit, StopAsyncIteration, asyncio.CancelledError])
@pytest.mark.parametrize("block", ASYNC_BLOCKS)
def test_error_comes_out_of_async_blocks(
    block: Callable[[str, BaseException], object], raised: type[BaseException], host: WatchedHost
) -> None:
    async def main() -> None:
        for _ in range(2):
            error = raised("stop")
            with pytest.raises((raised, RuntimeError)) as caught:
                await block(host.socket_path, error)  # type: ignore[misc]
            assert is_or_caused_by(caught.value, error)
            error.__traceback__ = caught.value.__traceback__ = None
            del caught

    with nothing_left(host):
        asyncio.run(main())


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("block", ASYNC_BLOCKS)
def test_what_ends_a_loop_leaves_nothing(
    block: Callable[[str, BaseException], object], raised: type[BaseException], host: WatchedHost
) -> None:
    with nothing_left(host), pytest.raises(raised):
        asyncio.run(block(host.socket_path, raised("stop")))  # type: ignore[arg-type]
