"""The threads of C: one closes descriptors, one seals objects, one fills them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
from pathlib import Path

import pytest

from shmprotocol.native import builtins
from support import forbid, in_child, wait_until

CAPACITY = 8192
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
HEADER = b"header".ljust(4096, b"\0")
SYS_PIDFD_GETFD = 438  # asm/unistd.h
LONG_NS = 20_000_000_000


def test_closer_closes_what_it_is_given() -> None:
    closer = builtins.Closer()
    for _ in range(3):
        reader, writer = os.pipe()
        copy = os.dup(writer)
        assert closer.close_later(writer, copy)
        assert os.read(reader, 1) == b""
        os.close(reader)
    closer.end()


def test_closer_has_closed_all_when_it_ends() -> None:
    closer = builtins.Closer()
    pipes = [os.pipe() for _ in range(100)]
    for _, writer in pipes:
        assert closer.close_later(writer)
    closer.end()
    for reader, writer in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(writer)
        os.close(reader)
    closer.end()


def test_closer_takes_nothing_after_its_end() -> None:
    closer = builtins.Closer()
    assert closer.close_later(*os.pipe())
    closer.end()
    assert not closer.close_later(0)


def test_closer_that_is_forgotten_closes_all() -> None:
    closer = builtins.Closer()
    reader, writer = os.pipe()
    closer.close_later(writer)
    del closer
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(writer)
    os.close(reader)


@pytest.mark.parametrize("arguments", [(1, 2, 3), ("x",), (1 << 40,)])
def test_closer_refuses_other_arguments(arguments: tuple[int, ...]) -> None:
    with pytest.raises((TypeError, OverflowError)):
        builtins.Closer().close_later(*arguments)


def test_spare_is_an_object_that_cannot_grow() -> None:
    writer, reader = builtins.make_spare(b"spare", CAPACITY)
    try:
        assert os.fstat(reader).st_size == CAPACITY
        assert os.fstat(reader).st_mode & 0o777 == 0o444
        assert fcntl.fcntl(writer, fcntl.F_GET_SEALS) & fcntl.F_SEAL_GROW
        assert fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(writer)
        assert not os.get_inheritable(reader)
    finally:
        os.close(writer)
        os.close(reader)


def test_spare_leaves_nothing_when_one_of_its_steps_fails() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            builtins.make_spare(b"spare", CAPACITY)
        os.close(os.dup(0))  # the one descriptor that there is room for
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("capacity", [1 << 63, -1])
def test_spare_has_a_capacity_that_a_file_can_have(capacity: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        builtins.make_spare(b"spare", capacity)


@pytest.mark.parametrize("room", [CAPACITY, 2 * CAPACITY])
def test_sealer_publishes_an_object(room: int) -> None:
    sealer = builtins.Sealer()
    for _ in range(3):
        writer, reader = builtins.make_spare(b"spare", room)
        said = sealer.seal(writer, reader, room > CAPACITY, CAPACITY, HEADER, SEALS, LONG_NS)
        assert said == (0, 0)
        assert os.pread(reader, 4096, 0) == HEADER
        assert os.fstat(reader).st_size == CAPACITY
        assert fcntl.fcntl(reader, fcntl.F_GET_SEALS) & SEALS == SEALS
        os.close(writer)
        os.close(reader)


def test_sealer_says_what_failed() -> None:
    sealer = builtins.Sealer()
    writer, reader = builtins.make_spare(b"spare", CAPACITY)
    arguments = (False, CAPACITY, HEADER, SEALS, LONG_NS)
    assert sealer.seal(reader, reader, *arguments) == (1, errno.EBADF)
    os.ftruncate(writer, CAPACITY // 2)
    assert sealer.seal(writer, reader, False, CAPACITY, HEADER, 0, LONG_NS) == (2, 0)
    other, elsewhere = builtins.make_spare(b"other", CAPACITY)
    assert sealer.seal(writer, elsewhere, *arguments) == (3, 0)
    for descriptor in (writer, reader, other, elsewhere):
        os.close(descriptor)


def test_sealer_is_taken_from_when_its_time_is_over() -> None:
    sealer = builtins.Sealer()
    writer, reader = builtins.make_spare(b"spare", CAPACITY)
    said = sealer.seal(writer, reader, False, CAPACITY, HEADER, SEALS, 0)
    if said is None:
        with pytest.raises(RuntimeError, match="being sealed"):
            sealer.seal(writer, reader, False, CAPACITY, HEADER, SEALS, 0)
        said = sealer.take()
    assert said == (0, 0)
    assert sealer.take() is None
    os.close(writer)
    os.close(reader)


def test_sealer_that_is_forgotten_ends_its_thread() -> None:
    tasks = len(os.listdir("/proc/self/task"))
    writer, reader = builtins.make_spare(b"spare", CAPACITY)
    sealers = [builtins.Sealer() for _ in range(3)]
    sealers[0].seal(writer, reader, False, CAPACITY, HEADER, SEALS, 0)
    sealers[1].seal(reader, reader, False, CAPACITY, HEADER, SEALS, LONG_NS)
    del sealers
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= tasks)
    os.close(writer)
    os.close(reader)


def tables() -> list[list[str]]:
    """Return what the threads apart have open."""
    listings = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (task / "comm").read_text().strip() == "shm apart":
                listings.append(os.listdir(task / "fd"))
    return listings


def test_sealer_has_nothing_open_but_its_process() -> None:
    if not builtins.can_work_apart():
        pytest.skip("pidfd_getfd is not permitted here")
    writer, reader = builtins.make_spare(b"spare", CAPACITY)
    sealer = builtins.Sealer()
    assert sealer.seal(writer, reader, False, CAPACITY, HEADER, SEALS, LONG_NS) == (0, 0)
    wait_until(lambda: [len(table) for table in tables()] == [1])  # those of the tests before end
    os.close(writer)
    os.close(reader)


def test_sealer_shares_the_descriptors_where_it_cannot_copy_them() -> None:
    def seal() -> None:
        forbid(SYS_PIDFD_GETFD, errno.EPERM)
        assert not builtins.can_work_apart()
        writer, reader = builtins.make_spare(b"spare", CAPACITY)
        sealer = builtins.Sealer()
        assert sealer.seal(writer, reader, False, CAPACITY, HEADER, SEALS, LONG_NS) == (0, 0)
        assert len(tables()[0]) == len(os.listdir("/proc/self/fd"))  # each with its listing

    assert in_child(seal) == 0


@pytest.mark.parametrize(
    "changes",
    [{3: 1 << 63}, {4: bytes(4097)}, {4: "text"}, {5: 1 << 40}, {0: "x"}, {6: -1}],
)
def test_sealer_refuses_other_arguments(changes: dict[int, object]) -> None:
    arguments = [0, 0, False, CAPACITY, HEADER, SEALS, LONG_NS]
    for index, value in changes.items():
        arguments[index] = value  # type: ignore[call-overload]
    with pytest.raises((TypeError, ValueError, OverflowError)):
        builtins.Sealer().seal(*arguments)  # type: ignore[arg-type]


def pages_of(descriptor: int) -> int:
    """Return the bytes of an object that have memory."""
    return os.fstat(descriptor).st_blocks * 512


def is_open_here(writer: int) -> int:
    """Return how many descriptors of this process are of the same object."""
    mine = os.fstat(writer).st_ino
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.stat(f"/proc/self/fd/{name}").st_ino == mine
    return count


def test_filler_fills_what_it_is_given() -> None:
    filler = builtins.Filler()
    objects = [builtins.make_spare(b"spare", capacity) for capacity in (CAPACITY, 9 << 20, CAPACITY)]
    for writer, reader in objects:
        assert filler.add(writer, os.fstat(reader).st_size) > 0
    for writer, reader in objects:
        wait_until(lambda reader=reader: pages_of(reader) == os.fstat(reader).st_size)
        wait_until(lambda writer=writer: is_open_here(writer) == 2)
        os.close(writer)
        os.close(reader)


def test_filler_goes_on_after_an_object_that_cannot_be_filled() -> None:
    filler = builtins.Filler()
    sealed, good = builtins.make_spare(b"spare", CAPACITY), builtins.make_spare(b"spare", CAPACITY)
    os.ftruncate(sealed[0], 0)  # it cannot grow
    filler.add(sealed[0], CAPACITY)
    filler.add(good[0], CAPACITY)
    wait_until(lambda: pages_of(good[1]) == CAPACITY)
    assert pages_of(sealed[1]) == 0
    for descriptor in (*sealed, *good):
        os.close(descriptor)


def test_filler_skips_what_is_taken() -> None:
    filler = builtins.Filler()
    large, other = builtins.make_spare(b"spare", 1 << 30), builtins.make_spare(b"spare", 1 << 30)
    tickets = [filler.add(large[0], 1 << 30), filler.add(other[0], 1 << 30)]
    filler.skip(tickets[1])
    filler.skip(tickets[0])
    wait_until(lambda: is_open_here(large[0]) == is_open_here(other[0]) == 2)
    assert pages_of(large[1]) < 1 << 30
    assert pages_of(other[1]) == 0
    filler.skip(0)
    filler.skip(999)
    for descriptor in (*large, *other):
        os.close(descriptor)


def test_filler_that_is_closed_lets_go_of_all() -> None:
    filler = builtins.Filler()
    objects = [builtins.make_spare(b"spare", 1 << 28) for _ in range(20)]
    for writer, _ in objects:
        filler.add(writer, 1 << 28)
    filler.close()
    filler.close()
    assert filler.add(objects[0][0], CAPACITY) == 0
    for writer, reader in objects:
        wait_until(lambda writer=writer: is_open_here(writer) == 2)
        os.close(writer)
        os.close(reader)


def test_filler_has_room_for_so_many() -> None:
    filler = builtins.Filler()
    writer, reader = builtins.make_spare(b"spare", 1 << 30)
    tickets = [filler.add(writer, 1 << 30) for _ in range(300)]
    assert 0 in tickets
    assert all(ticket > 0 for ticket in tickets[:256])
    for ticket in tickets:
        filler.skip(ticket)
    del filler
    assert is_open_here(writer) == 2
    os.close(writer)
    os.close(reader)


def test_filler_of_a_parent_is_let_go_in_its_child() -> None:
    filler = builtins.Filler()
    objects = [builtins.make_spare(b"spare", 1 << 28) for _ in range(5)]
    tickets = [filler.add(writer, 1 << 28) for writer, _ in objects]
    child = os.fork()
    if not child:
        filler.skip(tickets[-1])
        bad = filler.add(objects[-1][0], CAPACITY)
        filler.close()
        del filler
        os._exit(1 if bad else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del filler
    for descriptor in sum(objects, ()):
        os.close(descriptor)


@pytest.mark.parametrize("arguments", [(0,), ("x", 1), (0, 1 << 63), (0, -1)])
def test_filler_refuses_other_arguments(arguments: tuple[int, ...]) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        builtins.Filler().add(*arguments)
