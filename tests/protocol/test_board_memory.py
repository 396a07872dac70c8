"""The board as memory: its owner, its lines, and what is not one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmprotocol
from header_support import GOOD
from shmprotocol.abi.header import FLAG_UNSEALED, HEADER_SIZE, KIND_BOARD, Header
from shmprotocol.errors import BadRegion
from shmprotocol.kernel.address_space import MAP_UNSEALED, attach, unmap
from shmprotocol.kernel.board import Reader, Writer, size_of
from shmprotocol.native.binding import lib
from shmprotocol.native.builtins import Current

LINES = 10
CAPACITY = 8192
BASE = 0x610000000000  # outside of the windows, which another test may have reserved


def header(**changes: object) -> Header:
    data = BASE + HEADER_SIZE
    board = {"kind": KIND_BOARD, "flags": FLAG_UNSEALED, "base": BASE, "size": HEADER_SIZE + size_of(LINES)}
    board |= {"capacity": CAPACITY, "data": data, "data_size": size_of(LINES), "root": data}
    board |= {"root_size": size_of(LINES), "metadata": 0, "metadata_size": 0, "window_base": BASE}
    return GOOD._replace(**(board | changes))


@contextlib.contextmanager
def mapped(descriptor: int) -> Iterator[int]:
    address = attach(descriptor, BASE, CAPACITY, MAP_UNSEALED)
    try:
        yield address
    finally:
        unmap(address, CAPACITY, 0)


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = os.memfd_create("board")
    os.ftruncate(descriptor, CAPACITY)
    os.pwrite(descriptor, header().pack(), 0)
    yield descriptor
    os.close(descriptor)


def test_reader_sees_what_the_writer_has_set(descriptor: int) -> None:
    writer = Writer(descriptor, CAPACITY, LINES)
    with mapped(descriptor) as address:
        reader = Reader(address, "memory")
        assert reader.lives()
        line, other = reader.line(3), reader.line(4)
        before = reader.changes(line), reader.changes(other)
        current = Current()
        current._follow_line(reader, reader.is_open, reader.owner, line, 7, 0)
        assert current._is_granted() is False
        writer.set(3, 7, 1)
        assert current._is_granted() is True
        assert (reader.changes(line) != before[0], reader.changes(other)) == (True, before[1])
        writer.set_rights(3, 1)
        assert current._is_granted() is False
        writer.close()
        writer.close()
        assert not reader.lives()
        assert current._is_granted() is None
        assert current._was_current() is True


def test_lines_that_the_board_does_not_have_have_no_address(descriptor: int) -> None:
    writer = Writer(descriptor, CAPACITY, LINES)
    with mapped(descriptor) as address:
        reader = Reader(address, None)
        assert [bool(reader.line(number)) for number in (0, 1, LINES - 1, LINES, 2**64 - 1)] == [
            *(False, True, True, False, False)
        ]
    writer.close()


@pytest.mark.parametrize("size", [2, 2**30, 2**63, 2**64 - 1])
def test_board_with_more_lines_than_it_has_room_for_is_refused(size: int, descriptor: int) -> None:
    writer = Writer(descriptor, CAPACITY, LINES)
    os.pwrite(descriptor, (LINES - 1 + size).to_bytes(8, "little", signed=False)
              if LINES - 1 + size < 2**64 else b"\xff" * 8, HEADER_SIZE)  # fmt: skip
    with mapped(descriptor) as address, pytest.raises(BadRegion):
        Reader(address, None)
    writer.close()


@pytest.mark.parametrize("owner_at", [1, 61, 64, 2**32 - 4])
def test_board_whose_owner_is_elsewhere_is_refused(owner_at: int, descriptor: int) -> None:
    os.pwrite(descriptor, owner_at.to_bytes(4, "little"), HEADER_SIZE + 8)
    with mapped(descriptor) as address, pytest.raises(BadRegion):
        Reader(address, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 1},
        {"root": 0, "root_size": 0},
        {"root_size": 100},
        {"root": BASE + HEADER_SIZE + 8, "root_size": size_of(LINES) - 8},
    ],
    ids=str,
)
def test_other_regions_are_not_boards(changes: dict[str, int], descriptor: int) -> None:
    os.pwrite(descriptor, header(**changes).pack(), 0)
    with mapped(descriptor) as address, pytest.raises(BadRegion):
        Reader(address, None)


OWNER = """
import sys, time
from shmprotocol.kernel.board import Writer
writer = Writer(int(sys.argv[1]), 8192, 10)
print("owned", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_kernel_clears_the_owner_of_a_board_that_dies(way: signal.Signals, descriptor: int) -> None:
    command = [sys.executable, "-c", OWNER, str(descriptor)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[descriptor])
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"owned\n"
        with mapped(descriptor) as address:
            reader = Reader(address, None)
            assert reader.lives()
            child.send_signal(signal.SIGSTOP)
            assert reader.lives()
            child.send_signal(way)
            child.send_signal(signal.SIGCONT)
            child.wait(20)
            assert not reader.lives()
    finally:
        child.kill()
        child.communicate()


def test_sleeper_is_woken_by_a_change_the_end_of_the_host_and_by_others(descriptor: int) -> None:
    from shmprotocol.native.binding import ffi

    writer = Writer(descriptor, CAPACITY, LINES)
    wakes = ffi.new("uint32_t *")
    waker = int(ffi.cast("uintptr_t", wakes))
    with mapped(descriptor) as address:
        reader = Reader(address, None)
        line = reader.line(1)

        def sleep(wait_ns: int, changes: int) -> int:
            return int(lib.shm_board_wait(line, changes, reader.owner, waker, 0, wait_ns))

        changes = reader.changes(line)
        if (result := sleep(1, changes)) == -38:
            pytest.skip("this kernel has no futex_waitv: Linux before 5.16")
        assert result == -110
        began = time.monotonic()
        assert sleep(20_000_000, changes) == -110
        assert time.monotonic() - began >= 0.02
        writer.set(1, 7, 1)
        assert sleep(10**10, changes) == 0
        assert time.monotonic() - began < 5
        lib.shm_wake(waker)
        assert sleep(10**10, reader.changes(line)) == 0
        writer.close()
        assert sleep(10**10, reader.changes(line)) == 0


PROGRAM = r"""
#include "shm_board.h"
#include <stdio.h>
int main(int argc, char **argv)
{
        const struct shm_region_header *header;
        const struct shm_board *board;
        int error = shm_region_map_unsealed(argc > 1 ? atoi(argv[1]) : -1, &header);

        if (error)
                return -error;
        board = shm_board_of(header);
        if (board == NULL)
                return 200;
        printf("%d %d %d %d %d\n", shm_board_lives(board), shm_board_is_current(board, 3, 7),
               shm_board_is_current(board, 3, 8), shm_board_is_current(board, 0, 0),
               shm_board_is_current(board, 10, 0));
        return 0;
}
"""


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-x", "c++", "-std=c++17"]], ids=str)
def test_native_reader_looks_at_a_board(compiler: list[str], descriptor: int, tmp_path: Path) -> None:
    (tmp_path / "p.c").write_text(PROGRAM)
    folder = Path(shmprotocol.__file__).parent / "abi"
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}", "-o", str(tmp_path / "p")]
    subprocess.run([*compiler, *flags, str(tmp_path / "p.c")], check=True, timeout=60)

    def look() -> str:
        command = [str(tmp_path / "p"), str(descriptor)]
        return subprocess.run(
            command, check=True, timeout=20, capture_output=True, text=True, pass_fds=[descriptor]
        ).stdout.strip()

    writer = Writer(descriptor, CAPACITY, LINES)
    writer.set(3, 7, 1)
    assert look() == "1 1 0 0 0"
    writer.close()
    assert look() == "0 1 0 0 0"


UNFINISHED = """
import contextlib, mmap, os, resource
from shmprotocol.kernel.board import Writer

descriptor, other = os.memfd_create("board"), os.memfd_create("board")
for each in (descriptor, other):
    os.ftruncate(each, 8192)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with contextlib.suppress(OSError):
    Writer(descriptor, 8192, 10)
    print("it was written")
guard = mmap.mmap(-1, 8192, prot=0)  # where it was, which would be the next one's place
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
Writer(other, 8192, 10).close()
print("made")
"""


def test_thread_whose_board_failed_can_make_another() -> None:
    """It keeps a list of its robust mutexes, in which none may be left that is unmapped."""
    result = subprocess.run([sys.executable, "-c", UNFINISHED], capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("made\n", 0)
