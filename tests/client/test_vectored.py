"""Vectored input and output over pinned buffers, against what `os.readv` does and against plain slices."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shmclient
from pinning_support import CONTENT
from shmclient import Pinner, preadv, pwritev, readv, writev

SIZES = st.lists(st.integers(0, 50), max_size=40)


@given(sizes=SIZES, content=st.binary(max_size=600))
def test_what_is_read_is_what_slices_give(sizes: list[int], content: bytes) -> None:
    buffers = [bytearray(size) for size in sizes]
    with _memfd(content) as file:
        assert readv(file, buffers) == min(sum(sizes), len(content))
    assert b"".join(buffers) == content[: sum(sizes)].ljust(sum(sizes), b"\0")


@given(chunks=st.lists(st.binary(max_size=50), max_size=40))
def test_what_is_written_is_the_buffers_joined(chunks: list[bytes]) -> None:
    with _memfd(b"") as file:
        assert writev(file, chunks) == len(b"".join(chunks))
        assert os.pread(file.fileno(), 10_000, 0) == b"".join(chunks)


def _memfd(content: bytes) -> Any:
    fd = os.memfd_create("test")
    os.pwrite(fd, content, 0)
    return os.fdopen(fd, "rb+", buffering=0)


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 3000])
def test_transfers_go_over_the_limit_of_one_call(count: int, file: int, pinner: Pinner) -> None:
    buffers = [bytearray(5) for _ in range(count)]
    iov = pinner.iovec(buffers)
    assert readv(file, iov) == min(5 * count, len(CONTENT))
    assert b"".join(buffers) == CONTENT[: 5 * count]
    os.lseek(file, 0, os.SEEK_SET)
    os.ftruncate(file, 0)
    assert writev(file, iov) == 5 * count
    assert os.pread(file, 100_000, 0) == b"".join(buffers)


def test_os_readv_takes_an_iovec_too(file: int, pinner: Pinner) -> None:
    iov = pinner.iovec([bytearray(3), bytearray(4)])
    assert os.readv(file, iov) == 7
    assert list(iov) == [CONTENT[:3], CONTENT[3:7]]
    assert os.pwritev(file, iov, 100) == 7


def test_offset_is_where_it_starts_and_the_position_stays(file: int) -> None:
    first, second = bytearray(3), bytearray(4)
    assert preadv(file, [first, second], 10) == 7
    assert bytes(first + second) == CONTENT[10:17]
    assert pwritev(file, [b"xx", b"yyy"], 20) == 5
    assert os.pread(file, 7, 19) == CONTENT[19:20] + b"xxyyy" + CONTENT[25:26]
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_end_of_file_ends_a_read_and_only_empty_buffers_do_not() -> None:
    with _memfd(b"abcde") as file:
        buffers = [bytearray(), bytearray(3), *[bytearray() for _ in range(2000)], bytearray(9)]
        assert readv(file, buffers) == 5
        assert (buffers[1], buffers[-1][:2]) == (b"abc", b"de")
        assert readv(file, buffers) == 0
        assert readv(file, []) == readv(file, [bytearray()]) == 0


def test_read_goes_on_after_each_short_one() -> None:
    """A stream delivers in pieces of random size; all buffers are filled in the end."""
    chance = random.Random(1)
    content = chance.randbytes(200_000)
    sizes = [chance.randrange(0, 400) for _ in range(2000)]
    buffers = [bytearray(size) for size in sizes]
    ours, theirs = socket.socketpair()

    def send() -> None:
        at = 0
        while at < len(content):
            size = chance.randrange(1, 3000)
            theirs.sendall(content[at : at + size])
            at += size
        theirs.close()

    thread = threading.Thread(target=send)
    thread.start()
    with ours:
        total = readv(ours, buffers)
    thread.join()
    assert total == min(sum(sizes), len(content))
    assert b"".join(buffers) == content[: sum(sizes)].ljust(sum(sizes), b"\0")


def test_write_goes_on_after_each_short_one() -> None:
    chance = random.Random(2)
    chunks = [chance.randbytes(chance.randrange(0, 3000)) for _ in range(1500)]
    ours, theirs = socket.socketpair()
    received = bytearray()

    def receive() -> None:
        while part := theirs.recv(chance.randrange(1, 5000)):
            received.extend(part)

    thread = threading.Thread(target=receive)
    thread.start()
    with ours:
        assert writev(ours, chunks) == len(b"".join(chunks))
    thread.join()
    theirs.close()
    assert received == b"".join(chunks)


def test_descriptor_that_does_not_block_gives_what_there_is_and_then_raises() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.write(writer, b"abcd")
    buffers = [bytearray(3), bytearray(3)]
    assert readv(reader, buffers) == 4
    assert buffers == [b"abc", b"d\0\0"]
    with pytest.raises(BlockingIOError):
        readv(reader, buffers)
    os.set_blocking(writer, False)
    assert 0 < writev(writer, [bytes(100_000)] * 3) < 300_000
    with pytest.raises(BlockingIOError, match="write of 1 buffers"):
        writev(writer, [bytes(100_000)])
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        writev(writer, [b"abc"])
    os.close(writer)


def test_signal_handler_runs_during_a_read_and_may_end_it() -> None:
    """First a handler that returns, after which the read goes on; then one that raises."""
    reader, writer = os.pipe()
    calls: list[int] = []

    def on_signal(*_: object) -> None:
        calls.append(1)
        if len(calls) == 1:
            os.write(writer, b"rest")
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        else:
            raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, on_signal)
    try:
        os.write(writer, b"begin")
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        buffer = bytearray(9)
        assert readv(reader, [buffer]) == 9
        assert (buffer, len(calls)) == (b"beginrest", 1)
        with pytest.raises(ZeroDivisionError):
            readv(reader, [buffer])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        os.close(reader)
        os.close(writer)
    buffer.append(1)  # and nothing is pinned any more


@pytest.mark.parametrize("fd", [-1, 9999, 1 << 40, -(1 << 40)])
def test_bad_descriptor_is_an_os_error(fd: int) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        readv(fd, [bytearray(3)])
    with pytest.raises(OSError, match="Bad file descriptor"):
        pwritev(fd, [b"abc"], 0)


@pytest.mark.parametrize("offset", [-1, 1 << 63, -(1 << 70)])
def test_bad_offset_is_an_os_error(offset: int, file: int) -> None:
    with pytest.raises(OSError, match="Invalid argument: offset"):
        preadv(file, [bytearray(3)], offset)


def test_read_into_what_is_read_only_is_refused_and_nothing_is_read(file: int, pinner: Pinner) -> None:
    first = bytearray(3)
    for buffers in (
        [first, b"abc"],
        pinner.iovec([first, b"abc"]),
        [first, memoryview(bytearray(3)).toreadonly()],
    ):
        with pytest.raises(BufferError, match="buffer 1 of 2: it is read-only"):
            readv(file, buffers)
    assert first == bytes(3)
    assert os.lseek(file, 0, os.SEEK_CUR) == 0


def test_transfers_take_what_has_a_descriptor(file: int) -> None:
    with os.fdopen(os.dup(file), "rb") as stream:
        assert preadv(stream, [bytearray(3)], 0) == 3
    with pytest.raises(AttributeError):
        readv("5", [bytearray(3)])  # type: ignore[arg-type]


def test_unpin_is_refused_while_another_thread_reads_and_the_rest_is_unpinned() -> None:
    reader, writer = os.pipe()
    pinner, buffer, other = Pinner(), bytearray(4), bytearray(4)
    iov = pinner.iovec([buffer])
    pinner.pin(other)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(readv(reader, iov)))
    thread.start()
    while not iov._uses:
        pass
    with pytest.raises(BufferError, match="readv or writev of another thread"):
        pinner.unpin()
    other.append(1)
    with pytest.raises(BufferError):
        buffer.append(1)
    os.write(writer, b"abcd")
    thread.join()
    assert (results, buffer) == ([4], b"abcd")
    pinner.unpin()
    buffer.append(1)
    os.close(reader)
    os.close(writer)


def test_several_threads_write_the_same_iovec_to_their_own_files(tmp_path: Path, pinner: Pinner) -> None:
    chunks = [os.urandom(100) for _ in range(3000)]
    iov = pinner.iovec(chunks)

    def write(number: int) -> None:
        with open(tmp_path / str(number), "wb") as file:
            assert writev(file, iov) == 300_000

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(tmp_path / str(number)).read_bytes() for number in range(4)} == {b"".join(chunks)}


def test_read_goes_straight_into_a_region_under_construction(file: int, shm: shmclient.Client) -> None:
    with shm.create("x", 1000) as builder, Pinner() as pinner:
        assert readv(file, pinner.iovec([builder.data[:300], builder.data[500:]])) == 800
    assert bytes(shm.open("x").data) == CONTENT[:300] + bytes(200) + CONTENT[300:800]


def test_iovec_releases_every_reference() -> None:
    buffer = bytearray(10)
    count = sys.getrefcount(buffer)
    for _ in range(100):
        with Pinner() as pinner:
            iov = pinner.iovec([buffer] * 50)
            assert sys.getrefcount(buffer) > count
        readv(0, [])
        writev(1, [memoryview(buffer)[:0]])
        del iov
    assert sys.getrefcount(buffer) == count
