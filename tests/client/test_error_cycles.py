"""No error is part of a reference cycle: its traceback would keep the regions and watches of its callers."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import shmclient
import shmclient.aio
from shmclient import ShmError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import Machine, RawPeer, WatchedHost, wait_until

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
REFUSED: dict[str, Call] = {
    "no such name": ("get", ("missing",), {}),
    "one of several": ("open_many", (["x", "missing"],), {}),
    "late": ("get", ("missing",), {"wait": 0.01}),
    "no newer generation": ("get", ("x",), {"after": 10**6, "wait": 0.01}),
    "no newer generation now": ("open", ("x",), {"after": 10**6}),
    "no such name to follow": ("follow", ("missing",), {"wait": None}),
    "late to follow": ("follow", ("missing",), {"wait": 0.01}),
    "bad name": ("stat", ("../x",), {}),
    "exists": ("put", ("x", b"2"), {"replace": False}),
}
HOSTLESS: dict[str, Call] = {
    "request": ("get", ("x",), {}),
    "wait": ("get", ("x",), {"wait": 0.01}),
    "follow": ("follow", ("x",), {"wait": None}),
    "watch": ("watch", ("x",), {"wait": 0.01}),
}


@contextlib.contextmanager
def no_error_in_a_cycle(kind: type[Exception] = ShmError) -> Iterator[None]:
    """Raise what the block raises; fail if the collector would find an error with its traceback."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        errors = [item for item in gc.garbage if isinstance(item, kind) and item.__traceback__]
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        assert errors == []


def fail(shm: shmclient.Client, call: Call) -> None:
    """Call a method that raises."""
    method, arguments, options = call
    with pytest.raises(ShmError):
        next(getattr(shm, method)(*arguments, **options))


async def fail_async(shm: shmclient.aio.AsyncClient, call: Call) -> None:
    """Call a method that raises."""
    method, arguments, options = call
    with pytest.raises(ShmError):
        result = getattr(shm, method)(*arguments, **options)
        await (anext(result) if method in ("follow", "watch") else result)


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
def test_refusal_leaves_no_cycle(call: Call, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    with no_error_in_a_cycle():
        fail(shm, call)


@pytest.mark.anyio
@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED)
async def test_async_refusal_leaves_no_cycle(call: Call, host: WatchedHost, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(host.socket_path) as shm:
        (await shm.put("x", b"1")).close()
        with no_error_in_a_cycle():
            await fail_async(shm, call)


@pytest.mark.parametrize("call", HOSTLESS.values(), ids=HOSTLESS)
def test_dead_host_leaves_no_cycle(call: Call, machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        machine.kill()
        with no_error_in_a_cycle():
            fail(shm, call)
            fail(shm, call)


@pytest.mark.anyio
@pytest.mark.parametrize("call", HOSTLESS.values(), ids=HOSTLESS)
async def test_async_dead_host_leaves_no_cycle(call: Call, machine: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(machine.path) as shm:
        machine.kill()
        with no_error_in_a_cycle():
            await fail_async(shm, call)
            await fail_async(shm, call)


def test_watch_of_a_dead_host_leaves_no_cycle(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        changes = shm.watch()
        machine.kill()
        with no_error_in_a_cycle():
            for _ in range(2):
                with pytest.raises(shmclient.HostGone):
                    next(changes)


def test_closed_client_leaves_no_cycle(shm: shmclient.Client) -> None:
    shm.close()
    with no_error_in_a_cycle():
        fail(shm, REFUSED["no such name"])


def test_unpin_of_a_used_buffer_leaves_no_cycle() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as source, shmclient.Pinner() as pinner, ThreadPoolExecutor() as pool:
        iov = pinner.iovec([bytearray(4)])
        reading = pool.submit(shmclient.readv, source, iov)
        wait_until(lambda: iov._uses)
        try:
            with no_error_in_a_cycle(BufferError), pytest.raises(BufferError):
                pinner.unpin()
        finally:
            os.write(writer, b"abcd")
        assert reading.result(30) == 4
    os.close(writer)


def test_broken_protocol_leaves_no_cycle_in_the_host(
    host: WatchedHost, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "shmhost")  # pytest would keep each line of the log, and its error
    with no_error_in_a_cycle(), RawPeer(host.socket_path) as peer:
        peer.ask(m.Watch(2, ""))
        peer.send(pack(m.Watch(2, "")))
        assert peer.is_dropped()
        with RawPeer(host.socket_path, greet=False) as other:
            other.send(b"\x04\0\0\0\xc1\xc1\xc1\xc1")
            assert other.is_dropped()
        wait_until(lambda: host.counts()["links"] == 0)
