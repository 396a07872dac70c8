"""Who is at the other end of a socket, as the kernel says, and when it is gone."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmhost.core.peers import Peer
from shmhost.machine.peers import peer_of, peer_pidfd
from support import count_descriptors, in_child, needs_root

CONNECT = """
import socket, sys
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
input()
"""


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    """A socket without a peer on this machine, as far as the kernel says."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as sock,
    ):
        yield sock


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        listener.settimeout(20)
        yield listener


def connect(listener: socket.socket) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-S", "-c", CONNECT, listener.getsockname()]
    return subprocess.Popen(command, stdin=subprocess.PIPE)


def is_readable(descriptor: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def test_peer_is_this_process_at_both_ends_of_a_pair() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        own = Peer(os.getuid(), os.getgid(), os.getpid(), frozenset(os.getgroups()))
        assert peer_of(ours) == peer_of(theirs) == own


def test_peer_is_the_process_that_connected(listener: socket.socket) -> None:
    with connect(listener) as process:
        sock, _ = listener.accept()
        with sock:
            assert peer_of(sock).pid == process.pid
        process.communicate(b"\n")


def test_groups_that_the_kernel_does_not_tell_are_none(tcp: socket.socket) -> None:
    assert peer_of(tcp).groups == frozenset()


@needs_root
@pytest.mark.parametrize("count", [0, 1, 32, 33, 64, 65, 300, 65536])
def test_peer_has_all_its_groups(count: int) -> None:
    def look() -> None:
        os.setgroups(range(1000, 1000 + count))
        os.setresgid(77, 77, 77)
        os.setresuid(78, 78, 78)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert peer_of(ours) == Peer(78, 77, os.getpid(), frozenset(range(1000, 1000 + count)))

    assert in_child(look) == 0


def test_pidfd_is_readable_when_the_peer_is_dead_and_not_before(listener: socket.socket) -> None:
    with connect(listener) as process:
        sock, _ = listener.accept()
        with sock:
            pidfd = peer_pidfd(sock)
            assert pidfd is not None, "Linux 6.5 has SO_PEERPIDFD"
            try:
                assert not is_readable(pidfd, 0)
                assert not os.get_inheritable(pidfd)
                process.communicate(b"\n")
                assert is_readable(pidfd, 20_000)
            finally:
                os.close(pidfd)


def test_peer_that_is_reaped_already_is_not_taken_for_a_living_one(listener: socket.socket) -> None:
    process = connect(listener)
    sock, _ = listener.accept()
    with sock:
        process.communicate(b"\n")
        with contextlib.suppress(OSError):  # Linux 6.16 gives one for the dead, too
            pidfd = peer_pidfd(sock)
            assert pidfd is not None
            assert is_readable(pidfd, 0)
            os.close(pidfd)
        assert sock.recv(1) == b""


def test_no_pidfd_is_given_where_the_kernel_has_none(tcp: socket.socket) -> None:
    before = count_descriptors()
    assert peer_pidfd(tcp) is None
    assert count_descriptors() == before
