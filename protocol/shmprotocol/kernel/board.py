"""The board of a host in memory: the host writes it, clients look at it or sleep on it. See `shm_board.h`."""

from __future__ import annotations

import errno
import math
import os
import struct
from typing import Any

from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import BadRegion
from shmprotocol.kernel import address_space
from shmprotocol.native.binding import ffi, lib

LINE_SIZE: int = lib.SHM_BOARD_LINE_SIZE
_ROOT = ffi.sizeof("struct shm_board")
_OWNER = ffi.offsetof("struct shm_board", "owner")
_CHANGES = ffi.offsetof("struct shm_board_line", "changes")
_CONSTANTS = struct.Struct("<QI")  # lines, owner_at


def size_of(lines: int) -> int:
    """Return the bytes of a board with so many lines, line 0 included."""
    return int(_ROOT + lines * LINE_SIZE)


class Writer:
    """The one writable mapping of a board, and the mutex that says that its host lives. For one thread.

    `descriptor` is read-write, of an object of zeros, and stays the caller's. OSError: it cannot be mapped.
    """

    def __init__(self, descriptor: int, capacity: int, lines: int) -> None:
        flags = address_space.MAP_ANYWHERE
        self._base = address_space.map_writable(descriptor, 0, capacity, flags)
        self._capacity = capacity
        self._process = os.getpid()
        self._owner = self._base + HEADER_SIZE + _OWNER
        try:
            address_space.keep_from_children(self._base, capacity)
            self._owner_at = lib.shm_board_own(self._owner)
            if self._owner_at < 0:
                raise OSError(-self._owner_at, os.strerror(-self._owner_at))
            os.pwrite(descriptor, _CONSTANTS.pack(lines, self._owner_at), HEADER_SIZE)
        except BaseException:
            self.close()  # the kernel and the C library have the mutex in a list of this thread
            raise
        self.first: int = self._base + HEADER_SIZE + _ROOT

    def set(self, line: int, region: int, generation: int) -> None:
        """Write a line, and wake those who sleep on it."""
        lib.shm_board_set(self.first + line * LINE_SIZE, region, generation)

    def set_rights(self, line: int, rights: int) -> None:
        """Write the word of a line that changes with the rights."""
        lib.shm_board_set_rights(self.first + line * LINE_SIZE, rights)

    def set_arena(self, line: int, ledgers: int, waiters: int, size: int) -> None:
        """Write the words of an arena."""
        lib.shm_board_set_arena(self.first + line * LINE_SIZE, ledgers, waiters, size)

    def disown(self) -> None:
        """Say that another process is the host, with another board, until `own`."""
        lib.shm_board_move(self._base + HEADER_SIZE, 1)
        lib.shm_board_disown(self._owner)

    def own(self) -> None:
        """Say that this one is it again. OSError: the C library cannot."""
        if lib.shm_board_own(self._owner) != self._owner_at:
            raise OSError(errno.ENOTSUP, "the mutex of the board cannot be locked again")
        lib.shm_board_move(self._base + HEADER_SIZE, 0)

    def move_arena(self, line: int) -> None:
        """Say that another board has the line of an arena, until `set_arena`; wake those who sleep on it."""
        lib.shm_board_move_arena(self.first + line * LINE_SIZE)

    def close(self) -> None:
        """Say that the host is gone, and unmap. Not in a forked child, which does not have the mapping."""
        if self._base and self._process == os.getpid():
            lib.shm_board_disown(self._owner)
            address_space.unmap(self._base, self._capacity, address_space.MAP_ANYWHERE)
        self._base = 0


class Reader:
    """A board that is mapped at an address by `memory`, which it keeps. BadRegion: it is not a board."""

    def __init__(self, address: int, memory: Any) -> None:
        header = address_space.native_header(address, memory)
        root = int(ffi.cast("uintptr_t", header.root)) - int(ffi.cast("uintptr_t", header.base))
        board = lib.shm_board_of(header)
        if board == ffi.NULL:
            raise BadRegion("the host's board is not one, or its numbers contradict each other")
        self.memory = memory
        self._open = ffi.new("uint32_t *", 1)
        self.is_open: int = int(
            ffi.cast("uintptr_t", self._open)
        )  # the address of a word, for those who look
        self._board = board
        self._lines = board.lines
        self.owner: int = address + root + _OWNER + board.owner_at
        self._first = address + root + _ROOT

    def line(self, number: int) -> int:
        """Return the address of a line; 0 for line 0, and for one that the board does not have."""
        return self._first + number * LINE_SIZE if 0 < number < self._lines else 0

    def end(self) -> None:
        """Have those who look at it ask their client from now on, who is closed."""
        self._open[0] = 0

    def has_moved(self) -> bool:
        """Whether another process is the host by now, with another board."""
        return bool(self._board.moved)

    def lives(self) -> bool:
        """Whether the host serves."""
        return bool(lib.shm_board_lives(self._board))

    def changes(self, line: int) -> int:
        """Return the number that changes with a line, whose address this is."""
        return int(lib.shm_word_load(line + _CHANGES))


class Waker:
    """A word of this process on which its threads sleep, beside others."""

    def __init__(self) -> None:
        self._word = ffi.new("uint32_t *")
        self.address: int = int(ffi.cast("uintptr_t", self._word))

    def count(self) -> int:
        """Return how often it was woken, modulo 2**32."""
        return int(lib.shm_word_load(self.address))

    def wake(self) -> None:
        """Wake all who sleep on it. Never waits."""
        lib.shm_wake(self.address)


def wait_for_change(line: int, changes: int, owner: int, waker: Waker, wakes: int, wait_s: float) -> int:
    """Sleep until a line changes, its host goes, or the waker is used; return 0 or an errno.

    `changes` and `wakes` are the numbers from before. `wait_s` may be infinite. EINTR: a signal came.
    ENOSYS, EPERM: nobody can sleep so here. The other threads of the interpreter run meanwhile.
    """
    wait_ns = -1 if wait_s == math.inf else int(wait_s * 1e9)
    return -int(lib.shm_board_wait(line, changes, owner, waker.address, wakes, wait_ns))
