"""Buffers reach a descriptor at their offsets, however many there are and however little a write takes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from shmclient._drivers import transfer
from shmclient._drivers.transfer import IOV_MAX, joined, write_all


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = os.memfd_create("transfer")
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Have each pwritev take fewer bytes than it is given, as at a signal or a full disk."""
    chance, whole = random.Random(1), os.pwritev

    def write_some(fd: int, buffers: list[memoryview], offset: int) -> int:
        data = b"".join(buffers)
        return whole(fd, [data[: chance.randint(min(1, len(data)), len(data))]], offset)

    monkeypatch.setattr(transfer.os, "pwritev", write_some)
    return chance


def content(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def chunks_of(*pairs: tuple[int, bytes]) -> list[tuple[int, memoryview]]:
    return [(offset, memoryview(data)) for offset, data in pairs]


def test_what_lies_between_two_buffers_stays_zero(fd: int) -> None:
    write_all(fd, 10, chunks_of((0, b"ab"), (2, b"cd"), (8, b"ef")))
    assert content(fd) == bytes(10) + b"abcd" + bytes(4) + b"ef"


def test_joined_bytes_are_what_would_be_written() -> None:
    reports: list[int] = []
    assert joined(chunks_of((0, b"ab"), (2, b"cd"), (8, b"ef"))) == b"abcd" + bytes(4) + b"ef"
    assert joined([]) == b""
    assert joined(chunks_of((0, b"ab"), (8, b"ef")), reports.append) == b"ab" + bytes(6) + b"ef"
    assert reports == [4]


def test_nothing_is_written_when_there_is_nothing(fd: int) -> None:
    write_all(fd, 10, chunks_of((0, b""), (0, b"")))
    write_all(fd, 10, [])
    assert content(fd) == b""


@pytest.mark.parametrize("count", [IOV_MAX, IOV_MAX + 1, 2 * IOV_MAX + 1])
def test_buffers_may_be_more_than_one_call_takes(count: int, fd: int) -> None:
    write_all(fd, 0, [(number, memoryview(bytes([number % 251]))) for number in range(count)])
    assert content(fd) == bytes(number % 251 for number in range(count))


@pytest.mark.parametrize("piece", [None, 1, 7])
def test_short_writes_are_continued(
    piece: int | None, fd: int, short: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    if piece is not None:
        monkeypatch.setattr(transfer, "PIECE", piece)
    chunks, expected, offset = [], bytearray(), 0
    for number in range(100):
        data = short.randbytes(short.randrange(20)) if number < 99 else b"the end"
        gap = short.choice([0, 0, 3])
        chunks.append((offset + gap, memoryview(data)))
        expected += bytes(gap) + data
        offset += gap + len(data)
    write_all(fd, 0, chunks, None if piece is None else lambda _done: None)
    assert content(fd) == bytes(expected)


def test_items_wider_than_a_byte_are_written_whole(fd: int) -> None:
    write_all(fd, 0, [(0, memoryview(b"12345678").cast("Q"))])
    assert content(fd) == b"12345678"


@pytest.mark.parametrize(
    ("size", "reports"), [(0, []), (1, [1]), (8, [8]), (9, [8, 9]), (16, [8, 16]), (17, [8, 16, 17])]
)
def test_progress_is_told_at_each_piece_and_at_the_end(
    size: int, reports: list[int], fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PIECE", 8)
    calls: list[int] = []
    write_all(fd, 0, chunks_of((0, bytes(size))), calls.append)
    assert calls == reports


def test_error_of_a_write_is_raised(fd: int) -> None:
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Bad file descriptor"):
            write_all(reader, 0, chunks_of((0, b"x")))
    finally:
        os.close(reader)
