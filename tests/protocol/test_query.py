"""Connecting, for every client and command: a host whose queue is full is waited for, and then named."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

import shmclient
import shmclient._commands.cli
import shmclient.aio
import shmhost.cli
from shmprotocol.wire import messages as m
from shmprotocol.wire import query
from shmprotocol.wire.connection import pack
from support import count_descriptors, wait_until


class FullHost:
    """A listener whose queue is full: one connection waits there, and none is accepted."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(0)
        self._pending = socket.socket(socket.AF_UNIX)
        self._pending.connect(path)

    def accept(self) -> None:
        """Take the connection that fills the queue, and drop it."""
        self.listener.accept()[0].close()

    def close(self) -> None:
        self._pending.close()
        self.listener.close()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[FullHost]:
    host = FullHost(str(tmp_path / "full.sock"))
    yield host
    host.close()


def connect_sync(path: str) -> None:
    shmclient.connect(path, timeout=0.1)


def connect_async(path: str) -> None:
    async def connect() -> None:
        await shmclient.aio.connect(path, timeout=0.1)

    anyio.run(connect)


def connect_query(path: str) -> None:
    with query.Query(path, 0.1):
        pass


EVERY_WAY = pytest.mark.parametrize("connect", [connect_sync, connect_async, connect_query])


@EVERY_WAY
def test_full_queue_is_a_timeout_of_the_host(full: FullHost, connect: Callable[[str], None]) -> None:
    descriptors = count_descriptors()
    with pytest.raises(shmclient.HostTimeout, match=r"full\.sock accepts no connections") as caught:
        connect(full.path)
    assert caught.value.errno == errno.ETIMEDOUT
    assert count_descriptors() == descriptors


@EVERY_WAY
def test_missing_host_has_the_errno_of_the_kernel(tmp_path: Path, connect: Callable[[str], None]) -> None:
    with pytest.raises(shmclient.HostGone, match="shmhost serve") as caught:
        connect(str(tmp_path / "none.sock"))
    assert caught.value.errno == errno.ENOENT


@pytest.mark.parametrize("connect", [connect_sync, connect_query])  # an event loop needs descriptors first
def test_process_without_descriptors_is_told_so(full: FullHost, connect: Callable[[str], None]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(shmclient.OutOfMemory, match="Too many open files") as caught:
            connect(full.path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert caught.value.errno == errno.EMFILE


def test_wait_on_a_full_queue_ends_in_time(full: FullHost) -> None:
    with pytest.raises(shmclient.WaitTimeout, match=r"within 0\.1 s: .*accepts no connections"):
        shmclient.connect(full.path, wait=0.1)


@pytest.mark.anyio
async def test_async_wait_on_a_full_queue_ends_in_time(full: FullHost, anyio_backend: str) -> None:
    with pytest.raises(shmclient.WaitTimeout, match=r"within 0\.1 s: .*accepts no connections"):
        await shmclient.aio.connect(full.path, wait=0.1)


def test_connect_goes_on_when_the_queue_has_room(full: FullHost, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = count_attempts(monkeypatch)
    with ThreadPoolExecutor() as pool:
        connecting = pool.submit(query.connect, full.path, 50)
        wait_until(lambda: len(attempts) > 2)
        full.accept()
        connecting.result(50).close()


def count_attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each attempt to connect."""
    attempts, connect = list[str](), query.try_connect

    def attempt(path: str) -> query.HostSocket | None:
        attempts.append(path)
        return connect(path)

    monkeypatch.setattr(query, "try_connect", attempt)
    return attempts


def test_interrupt_ends_a_wait_for_a_full_queue(full: FullHost, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts, descriptors = count_attempts(monkeypatch), count_descriptors()

    def interrupt() -> None:
        wait_until(lambda: len(attempts) > 2)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            shmclient.connect(full.path, wait=50)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert count_descriptors() == descriptors


def test_signal_that_raises_nothing_does_not_look_like_a_connection(
    full: FullHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, is_over = count_attempts(monkeypatch), threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: is_over.set())

    def disturb() -> None:
        wait_until(lambda: len(attempts) > 2)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with pytest.raises(shmclient.HostTimeout):
            query.connect(full.path, 0.5)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert is_over.is_set()


@pytest.mark.anyio
async def test_cancelled_connect_leaves_no_socket(full: FullHost, anyio_backend: str) -> None:
    descriptors = count_descriptors()
    with anyio.move_on_after(0.05) as scope:
        await shmclient.aio.connect(full.path, wait=50)
    assert scope.cancelled_caught
    assert count_descriptors() == descriptors


@pytest.mark.parametrize(
    "command",
    [
        "shmhost ls",
        "shmhost stat x",
        "shmhost rm x",
        "shmhost who",
        "shmhost map",
        "shmhost top --once",
        "shmclient get x --wait 0.1",
        "shmclient exec --region x --wait 0.1 -- true",
    ],
)
def test_command_ends_with_6_when_the_queue_is_full(
    full: FullHost, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(query, "TIMEOUT_S", 0.1)
    monkeypatch.setenv("SHMHOST_SOCKET", full.path)
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as end:
        {"shmclient": shmclient._commands.cli, "shmhost": shmhost.cli}[command.split(maxsplit=1)[0]].main()
    assert end.value.code == 6
    assert "accepts no connections: it is stopped or overloaded" in capsys.readouterr().err


def test_answer_that_comes_in_drops_is_late_all_the_same(tmp_path: Path) -> None:
    path, frame = str(tmp_path / "h.sock"), pack(m.Welcome(1, m.VERSION, "slow", (), 0))
    is_over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def drip() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(BrokenPipeError):  # the client has left
                for byte in frame[:-1]:
                    peer.send(bytes([byte]))
                    if is_over.wait(0.05):  # all of it takes longer than the question may
                        return

        with ThreadPoolExecutor() as pool:
            dripping = pool.submit(drip)
            with (
                pytest.raises(shmclient.HostTimeout, match=r"did not answer within 0\.2 s"),
                query.Query(path, 0.2),
            ):
                pass
            is_over.set()
            dripping.result(30)


def test_pauses_double_to_a_limit_and_end_with_the_time() -> None:
    now = 0.0
    limits = [min(query.PAUSE_MIN_S * 2**number, query.PAUSE_MAX_S) for number in range(1000)]
    pauses = query.pauses(1.0, lambda: now)
    taken = []
    for pause in pauses:
        taken.append(pause)
        now = min(now + pause, 1.0)
    assert now == 1.0
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(taken[:-1], limits, strict=False))


def test_pauses_are_none_without_time() -> None:
    assert list(query.pauses(0.0, lambda: 7.0)) == []
