"""Descriptors that clients send: refused by the kernel, or closed where nobody waits for it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shmclient
from shmhost.serving import closing
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import Lingering, RawPeer, WatchedHost, wait_until, watched_host

STAT = pack(m.Stat(2, "witness"))
HELLO = pack(m.Hello(1, m.VERSION, m.VERSION, "raw"))


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that does not know SO_PASSRIGHTS (before Linux 6.16)."""
    monkeypatch.setattr(descriptors, "SO_PASSRIGHTS", 0x7FFF)


@pytest.fixture
def old_host(old_kernel: None, tmp_path: Path) -> Iterator[WatchedHost]:
    with watched_host(str(tmp_path / "host.sock")) as running:
        yield running


@pytest.fixture
def bystander(old_host: WatchedHost) -> Iterator[Callable[[], None]]:
    """Check that another client is answered; at the end, that nothing is left behind."""
    with shmclient.connect(old_host.socket_path) as shm:
        shm.put("witness", b"untouched").close()
        wait_until(lambda: "AnyIO worker thread" not in {thread.name for thread in threading.enumerate()})
        before = old_host.counts()

        def check() -> None:
            assert shm.stat("witness").generation == 1

        yield check
        wait_until(lambda: old_host.counts() == before, shown=lambda: (before, old_host.counts()))


def give_up(peer: RawPeer, lingering: Lingering, count: int = 1, data: bytes = STAT[:3]) -> None:
    """Send a descriptor that blocks its last holder, and close our own."""
    peer.send(data, [lingering.socket.fileno()] * count)
    lingering.socket.close()


def attack(host: WatchedHost, peer: RawPeer, *what: Any) -> None:
    """Give up while the host cannot read: it is the last holder then, in each run."""
    host.call(lambda: give_up(peer, *what))


def kernel_refuses() -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return descriptors.refuse(sock)


@pytest.mark.skipif(not kernel_refuses(), reason="SO_PASSRIGHTS needs Linux 6.16")
class TestKernelThatRefuses:
    def test_sender_is_refused_and_its_connection_goes_on(
        self, host: WatchedHost, shm: shmclient.Client
    ) -> None:
        shm.put("witness", b"1").close()
        with RawPeer(host.socket_path) as peer:
            with pytest.raises(PermissionError):
                peer.send(STAT, [0])
            assert isinstance(peer.ask(m.Stat(2, "witness"))[0], m.Described)
            opened, fds = peer.ask(m.Open(3, ("witness",), (), False))
            descriptors.close_all(fds)
            assert isinstance(opened, m.Opened)
            assert len(fds) == 1  # the other way they are welcome

    def test_client_that_connected_before_an_inherited_listener_was_closed_to_them_is_watched(
        self, tmp_path: Path
    ) -> None:
        path = str(tmp_path / "host.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        with RawPeer(path, greet=False) as early, Lingering() as lingering:
            give_up(early, lingering, 1, HELLO)
            with watched_host(path, listener) as host, RawPeer(path) as late:
                assert early.is_dropped()
                with pytest.raises(PermissionError):
                    late.send(STAT, [0])
                wait_until(lambda: host.counts()["links"] == 1)
                assert host.host._closer.pending == 1
                lingering.release()
                wait_until(lambda: host.host._closer.pending == 0)


@pytest.mark.parametrize("count", [1, 8, 253])
@pytest.mark.parametrize("data", [STAT[:3], STAT, STAT + STAT[:3]])
def test_bystander_is_answered_while_a_descriptor_blocks_its_close(
    data: bytes, count: int, old_host: WatchedHost, bystander: Callable[[], None]
) -> None:
    """The order proves it: the close has begun before the question, and blocks after the answer."""
    with Lingering() as lingering, RawPeer(old_host.socket_path) as peer:
        attack(old_host, peer, lingering, count, data)
        assert peer.is_dropped()
        wait_until(lambda: old_host.counts()["links"] == 1)
        bystander()
        assert old_host.host._closer.pending == 1


def test_bystander_is_answered_when_the_sender_is_gone_before_its_descriptors_are_read(
    old_host: WatchedHost, bystander: Callable[[], None]
) -> None:
    with Lingering() as lingering:
        with RawPeer(old_host.socket_path) as peer:
            attack(old_host, peer, lingering, 1, pack(m.Open(2, ("never",), (), True)))
        wait_until(lambda: old_host.counts()["links"] == 1)
        bystander()
        assert old_host.host._closer.pending == 1


def test_sender_is_told_why_it_is_dropped(old_host: WatchedHost, bystander: Callable[[], None]) -> None:
    with RawPeer(old_host.socket_path) as peer:
        peer.send(STAT, [0])
        message, _ = peer.receive()
        assert isinstance(message, m.Goodbye)
        assert "descriptors arrived" in message.text
        assert peer.is_dropped()


def test_more_blocking_closes_than_threads_wait_for_one(
    old_host: WatchedHost, bystander: Callable[[], None]
) -> None:
    count = closing.MAX_THREADS + 2
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            lingering = stack.enter_context(Lingering())
            peer = stack.enter_context(RawPeer(old_host.socket_path))
            attack(old_host, peer, lingering)
            assert peer.is_dropped()
        wait_until(lambda: old_host.counts()["links"] == 1)
        bystander()
        assert old_host.host._closer.pending == count
        assert sum(thread.name == "shmhost closer" for thread in threading.enumerate()) == closing.MAX_THREADS


def test_no_connection_is_accepted_while_as_many_closes_block_as_may(
    old_host: WatchedHost, bystander: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "MAX_PENDING", 1)
    with Lingering() as lingering:
        with RawPeer(old_host.socket_path) as peer:
            attack(old_host, peer, lingering)
            assert peer.is_dropped()
        wait_until(lambda: old_host.host._closer.is_full)
        with RawPeer(old_host.socket_path, greet=False) as late:
            late.send(HELLO)
            bystander()
            assert old_host.counts()["links"] == 1
            lingering.release()
            assert isinstance(late.receive()[0], m.Welcome)
