"""Descriptors over a real socket pair: close-on-exec, the limit, and no leak on any path."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.native import builtins
from shmprotocol.wire import descriptors
from shmprotocol.wire.names import MAX_DESCRIPTORS

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@pytest.fixture
def null() -> Iterator[int]:
    descriptor = os.open("/dev/null", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_descriptors_are_of_the_same_file_when_they_were_sent(pair: Pair, null: int) -> None:
    descriptors.send(pair[0], b"x", [null], 0)
    data, received = descriptors.receive(pair[1])
    assert (data, len(received)) == (b"x", 1)
    assert os.path.samestat(os.fstat(received[0]), os.fstat(null))
    received.close()


def test_descriptors_close_on_exec_when_they_were_received(pair: Pair, null: int) -> None:
    os.set_inheritable(null, True)
    descriptors.send(pair[0], b"x", [null], 0)
    _, received = descriptors.receive(pair[1])
    assert fcntl.fcntl(received[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    received.close()


def test_bytes_come_alone_when_no_descriptor_was_sent(pair: Pair) -> None:
    assert descriptors.send(pair[0], b"abc", [], 0) == 3
    assert descriptors.receive(pair[1]) == (b"abc", [])


def test_end_is_empty_when_the_peer_has_closed(pair: Pair) -> None:
    pair[0].close()
    assert descriptors.receive(pair[1]) == (b"", [])


def test_send_raises_and_sends_no_signal_when_the_peer_has_closed(pair: Pair, null: int) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        descriptors.send(pair[0], b"x", [null], 0)


def test_send_keeps_the_descriptor_when_it_was_sent(pair: Pair, null: int) -> None:
    descriptors.send(pair[0], b"x", [null], 0)
    os.fstat(null)
    descriptors.receive(pair[1])[1].close()


def test_plain_bytes_come_glued_when_descriptors_follow(pair: Pair, null: int) -> None:
    """The kernel joins them: the reason for the queue in Connection."""
    descriptors.send(pair[0], b"plain", [], 0)
    descriptors.send(pair[0], b"with", [null], 0)
    data, received = descriptors.receive(pair[1])
    assert (data, len(received)) == (b"plainwith", 1)
    received.close()


def test_descriptors_come_apart_when_two_sends_have_them(pair: Pair, null: int) -> None:
    descriptors.send(pair[0], b"a", [null], 0)
    descriptors.send(pair[0], b"b", [null, null], 0)
    for piece in ((b"a", 1), (b"b", 2)):
        data, received = descriptors.receive(pair[1])
        assert (data, len(received)) == piece
        received.close()


def test_descriptors_are_received_when_there_are_64(pair: Pair, null: int) -> None:
    descriptors.send(pair[0], b"x", [null] * MAX_DESCRIPTORS, 0)
    _, received = descriptors.receive(pair[1])
    assert len(received) == MAX_DESCRIPTORS
    received.close()


@pytest.mark.parametrize("count", [MAX_DESCRIPTORS + 1, 253])
def test_descriptors_are_refused_and_none_leaks_when_there_are_too_many(
    pair: Pair, null: int, count: int
) -> None:
    descriptors.send(pair[0], b"x", [null] * count, 0)
    before = open_descriptors()
    with pytest.raises(RemoteProtocolError, match="more than 64"):
        descriptors.receive(pair[1])
    assert open_descriptors() == before


@pytest.mark.parametrize("room", [0, 5])
def test_descriptors_that_find_no_room_are_told_as_lost_and_the_bytes_are_whole(room: int) -> None:
    script = f"""
        import os, resource, socket
        from shmprotocol.wire import descriptors
        left, right = socket.socketpair()
        descriptors.send(left, b"some bytes", [0] * 10, 0)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + {room}, lowest + {room}))
        data, received = descriptors.receive(right)
        print(data.decode(), received == [*range(lowest, lowest + {room}), descriptors.LOST])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout == "some bytes True\n"


def test_close_all_closes_each_one() -> None:
    before = open_descriptors()
    descriptors.close_all([os.dup(0), os.dup(0)])
    assert open_descriptors() == before


def test_send_now_passes_descriptors_as_send_does(pair: Pair, null: int) -> None:
    assert descriptors.send_now(pair[0], b"abc", [null]) == 3
    assert descriptors.send_now(pair[0], b"def", array.array("i", [null] * MAX_DESCRIPTORS)) == 3
    assert descriptors.send_now(pair[0], b"ghi", []) == 3
    for data, count in ((b"abc", 1), (b"def", MAX_DESCRIPTORS), (b"ghi", 0)):
        received, owned = descriptors.receive(pair[1])
        assert (received, len(owned)) == (data, count)
        owned.close()


def test_receive_data_reads_what_there_is_and_never_waits(pair: Pair) -> None:
    for refused in (True, False):
        with pytest.raises(BlockingIOError):
            descriptors.receive_data(pair[1], refused=refused)
        pair[0].send(b"abc" * 100)
        assert descriptors.receive_data(pair[1], refused=refused) == b"abc" * 100
    pair[0].send(bytes(20_000))
    assert descriptors.receive_data(pair[1], refused=True) == bytes(16 * 1024)
    assert descriptors.receive_data(pair[1], refused=True) == bytes(20_000 - 16 * 1024)
    pair[0].close()
    assert descriptors.receive_data(pair[1], refused=True) == b""


def test_send_now_never_waits_and_raises_no_signal(pair: Pair, null: int) -> None:
    with pytest.raises(BlockingIOError):
        while True:
            descriptors.send_now(pair[0], bytes(10_000), [null])
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        descriptors.send_now(pair[0], b"x", [null])
    pair[0].close()
    with pytest.raises(OSError, match="Bad file"):
        descriptors.send_now(pair[0], b"x", [null])
    with pytest.raises(OSError, match="Bad file"):
        descriptors.receive_data(pair[0], refused=True)


def test_wrong_rights_are_errors_of_the_caller(pair: Pair, null: int) -> None:
    with pytest.raises(ValueError, match="260 bytes are not up to 64 descriptors"):
        descriptors.send_now(pair[0], b"x", [null] * 65)
    with pytest.raises(ValueError, match="5 bytes"):
        builtins.send_now(pair[0].fileno(), b"x", b"12345")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        builtins.send_now(pair[0].fileno(), "x", b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        builtins.send_now(pair[0].fileno(), b"x", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        builtins.receive_now("x")  # type: ignore[arg-type]
    for number in (2**40, 2**70):
        with pytest.raises(OverflowError):
            builtins.receive_now(number)
