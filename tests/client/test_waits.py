"""Every wait ends: with its time, with a close by another thread or task, and with Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import anyio
import pytest

import shmclient
import shmclient.aio
from shmclient._connection.outbox import Outbox
from shmhost.core.work import Steps
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.names import MAX_DESCRIPTORS
from support import Machine, WatchedHost, count_descriptors, wait_until


@pytest.fixture
def stopped(machine: Machine) -> Iterator[Machine]:
    """Give a host that is stopped when the test says so, and goes on at its end."""
    yield machine
    machine.signal(signal.SIGCONT)


TIMEOUT_S = 1000.0  # of a host: what must end sooner does not end by it


def test_wait_ends_in_time_when_the_host_is_stopped(stopped: Machine) -> None:
    with shmclient.connect(stopped.path, timeout=TIMEOUT_S) as shm:
        stopped.signal(signal.SIGSTOP)
        with pytest.raises(shmclient.WaitTimeout, match=r"answered nothing for 0\.1 s"):
            shm.get("never", wait=0.1)


@pytest.mark.anyio
async def test_async_wait_ends_in_time_when_the_host_is_stopped(stopped: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(stopped.path, timeout=TIMEOUT_S) as ashm:
        stopped.signal(signal.SIGSTOP)
        with pytest.raises(shmclient.WaitTimeout, match=r"answered nothing for 0\.1 s"):
            await ashm.get("never", wait=0.1)


def test_request_ends_in_time_although_other_messages_come(host: WatchedHost, machine: Machine) -> None:
    with shmclient.connect(host.socket_path, timeout=0.5) as shm, shm.watch("noise"):
        is_over = threading.Event()

        def make_noise() -> None:
            with shmclient.connect(host.socket_path) as other:
                while not is_over.is_set():
                    other.put("noise", b"1").close()

        silence(host)
        with ThreadPoolExecutor() as pool:
            noise = pool.submit(make_noise)
            try:
                with pytest.raises(shmclient.HostTimeout, match="did not answer Stat"):
                    shm.stat("x")
            finally:
                is_over.set()
            noise.result(30)


def silence(host: WatchedHost) -> None:
    """Have the host forget each Stat."""

    def forget(handle: Callable[[m.Message], Steps | None], message: m.Message) -> Steps | None:
        return None if isinstance(message, m.Stat) else handle(message)

    def silence_all() -> None:
        for link in host.host._links:
            link.session.handle = partial(forget, link.session.handle)  # type: ignore[method-assign]

    host.call(silence_all)


class SilentHost:
    """A listener in the place of a host that is gone: it accepts, and does not greet."""

    def __init__(self, path: str) -> None:
        os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()

    def accept(self) -> socket.socket:
        return self._listener.accept()[0]

    def __enter__(self) -> SilentHost:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def test_thread_with_a_short_wait_is_not_kept_by_one_that_connects(machine: Machine) -> None:
    with shmclient.connect(machine.path, timeout=TIMEOUT_S) as shm, ThreadPoolExecutor() as pool:
        machine.kill()
        with SilentHost(machine.path) as silent:
            slow = pool.submit(shm.list)
            with (
                silent.accept(),
                pytest.raises(shmclient.WaitTimeout, match=r"another thread or task in 0\.1"),
            ):
                shm.get("x", wait=0.1)
            with pytest.raises(shmclient.HostGone):
                slow.result(30)


@pytest.mark.anyio
async def test_task_with_a_short_wait_is_not_kept_by_one_that_connects(
    machine: Machine, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(machine.path, timeout=TIMEOUT_S) as ashm:
        machine.kill()
        with SilentHost(machine.path) as silent:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ashm.list)
                await anyio.wait_all_tasks_blocked()
                with silent.accept(), pytest.raises(shmclient.WaitTimeout, match="another thread or task"):
                    await ashm.get("x", wait=0.1)
                tasks.cancel_scope.cancel()


# --- closed by another thread or task

WAITS: list[Callable[[shmclient.Client], object]] = [
    lambda shm: shm.get("never", wait=math.inf),
    lambda shm: shm.open_many(["held", "never"], wait=math.inf),
    lambda shm: next(shm.watch("never")),
]


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("holds", [True, False])
def test_close_ends_the_waits_of_other_threads(
    wait: Callable[[shmclient.Client], object], holds: bool, host: WatchedHost
) -> None:
    shm = shmclient.connect(host.socket_path)
    held = shm.put("held", b"1")  # keeps the connection open
    if not holds:
        held.close()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(wait, shm) for _ in range(3)]  # one reads, the others sleep
        wait_until(lambda: host.call(lambda: count_waits(host)) == 3)
        shm.close()
        for future in waiting:
            with pytest.raises(shmclient.ClientClosed, match="the client is closed"):
                future.result(30)
    wait_until(lambda: host.counts()["listeners"] == 0)
    assert host.counts()["leases"] == holds
    held.close()
    wait_until(lambda: host.counts()["links"] == 0)


def count_waits(host: WatchedHost) -> int:
    return sum(link.session.listening for link in host.host._links)


ASYNC_WAITS: list[Callable[[shmclient.aio.AsyncClient], Awaitable[object]]] = [
    lambda ashm: ashm.get("never", wait=math.inf),
    lambda ashm: ashm.watch("never").__anext__(),
]


@pytest.mark.anyio
@pytest.mark.parametrize("wait", ASYNC_WAITS)
@pytest.mark.parametrize("holds", [True, False])
async def test_close_ends_the_waits_of_other_tasks(
    wait: Callable[[shmclient.aio.AsyncClient], Awaitable[object]],
    holds: bool,
    host: WatchedHost,
    anyio_backend: str,
) -> None:
    ashm = await shmclient.aio.connect(host.socket_path)
    held = await ashm.put("held", b"1")
    if not holds:
        held.close()
    ends = []

    async def end() -> None:
        with pytest.raises(shmclient.ClientClosed, match="the client is closed"):
            await wait(ashm)
        ends.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(end)
        await anyio.wait_all_tasks_blocked()
        await ashm.aclose()
    assert ends == [1, 1, 1]
    wait_until(lambda: host.counts()["listeners"] == 0)
    held.close()
    wait_until(lambda: host.counts()["links"] == 0)


def test_close_of_a_watch_ends_the_loop_of_another_thread(host: WatchedHost, shm: shmclient.Client) -> None:
    with ThreadPoolExecutor() as pool:
        changes = shm.watch()
        names: list[str] = []
        loop = pool.submit(lambda: names.extend(change.info.name for change in changes))
        shm.put("x", b"1").close()
        wait_until(lambda: names)  # what has not been taken when a watch is closed is lost
        other = pool.submit(shm.get, "never", wait=math.inf)
        wait_until(lambda: host.call(lambda: count_waits(host)) == 2)
        changes.close()
        loop.result(30)
        assert names == ["x"]
        assert not other.done()
        shm.put("never", b"2").close()
        assert bytes(other.result(30)) == b"2"


@pytest.mark.anyio
async def test_close_of_a_watch_ends_the_loop_of_another_task(host: WatchedHost, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(host.socket_path) as ashm:
        changes, names = await ashm.watch(), []

        async def loop() -> None:
            async for change in changes:
                names.append(change.info.name)
                came.set()

        came = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop)
            (await ashm.put("x", b"1")).close()
            await came.wait()
            await anyio.wait_all_tasks_blocked()
            changes.close()
        assert names == ["x"]
        assert await ashm.list("y") == []


@pytest.fixture
def _interrupts() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt, which it does not in a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interrupts")
def test_interrupt_ends_a_wait_and_the_client_goes_on(host: WatchedHost, shm: shmclient.Client) -> None:
    def interrupt() -> None:
        wait_until(lambda: host.counts()["listeners"] == 1)
        os.kill(os.getpid(), signal.SIGINT)

    for wait in WAITS:
        shm.put("held", b"1").close()
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            wait(shm)
        thread.join()
        assert [info.name for info in shm.list()] == ["held"]
        wait_until(lambda: host.counts()["listeners"] == 0)


def test_process_without_a_descriptor_to_wait_with_is_told_so(host: WatchedHost) -> None:
    limits, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE), count_descriptors()
    free = [os.open("/dev/null", os.O_RDONLY) for _ in range(2)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free), limits[1]))  # room for the socket alone
    try:
        with pytest.raises(shmclient.OutOfMemory, match="Too many open files") as caught:
            shmclient.connect(host.socket_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE
    wait_until(lambda: count_descriptors() == descriptors)


# --- sending


def test_socket_that_is_full_holds_whole_frames_alone() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        outbox = Outbox(ours, ours.close)
        names = tuple(f"{number:03}".ljust(255, "x") for number in range(MAX_DESCRIPTORS))
        posted = 1
        while not outbox.post(m.Open(posted, names, (), False)):  # the longest request
            posted += 1
        assert read_all(theirs) == list(range(1, posted))
        outbox.post(m.Release(0, (7,)))
        assert read_all(theirs) == [posted, 0]


def read_all(peer: socket.socket) -> list[int]:
    """Return the ids of the messages that are there; half a frame at the end fails the test."""
    data = b""
    peer.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            data += peer.recv(1 << 20)
    connection = Connection("host")
    connection.receive(data)
    messages = [message for message, _ in connection.messages()]
    assert b"".join(map(pack, messages)) == data
    return [message.id for message in messages]


@pytest.mark.anyio
async def test_thousands_of_requests_at_once_are_answered(host: WatchedHost, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(host.socket_path) as ashm:
        (await ashm.put("x", b"1")).close()
        generations = []

        async def ask() -> None:
            generations.append((await ashm.stat("x")).generation)

        async with anyio.create_task_group() as tasks:
            for _ in range(3000):
                tasks.start_soon(ask)
        assert generations == [1] * 3000


@pytest.mark.anyio
async def test_requests_that_are_cancelled_in_the_queue_leave_the_others_whole(
    stopped: Machine, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(stopped.path) as ashm:
        (await ashm.put("x", b"1")).close()
        values = [await ashm.get("x") for _ in range(2)]
        connection, done = (await ashm._connected()).context, []

        async def ask(number: int) -> None:
            await ashm.stat("x")
            done.append(number)

        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as cancelled:
                stopped.signal(signal.SIGSTOP)
                for number in range(3000):
                    (tasks if number % 2 else cancelled).start_soon(ask, number)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            del values[:]  # a lease is given back behind the queue
            stopped.signal(signal.SIGCONT)
        assert sorted(done) == list(range(1, 3000, 2))
        assert (await ashm._connected()).context is connection
        assert (await ashm.stat("x")).leases == 0


@pytest.mark.anyio
async def test_request_to_a_host_that_takes_none_ends_in_time(stopped: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(stopped.path, timeout=0.3) as ashm:
        stopped.signal(signal.SIGSTOP)
        ends = []

        async def ask() -> None:
            with pytest.raises(shmclient.HostTimeout) as caught:
                await ashm.stat("x")
            ends.append("accepted no request" in str(caught.value))

        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(ask)
        assert set(ends) == {True, False}


def test_hundreds_of_threads_are_answered_when_the_host_goes_on(stopped: Machine) -> None:
    with shmclient.connect(stopped.path) as shm, ThreadPoolExecutor(600) as pool:
        shm.put("x", b"1").close()
        context = shm._connected().context
        stopped.signal(signal.SIGSTOP)
        asking = [pool.submit(shm.stat, "x") for _ in range(600)]  # the socket takes some 280 of them
        wait_until(lambda: context.outbox.has_unsent)
        stopped.signal(signal.SIGCONT)
        assert [future.result(50).generation for future in asking] == [1] * 600
        assert shm._connected().context is context
