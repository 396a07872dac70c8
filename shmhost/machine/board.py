"""The board in shared memory: the host's only writable mapping of it, and its mutex. See `shm_board.h`."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Collection

from shmhost.core.lines import Lines
from shmhost.core.objects import new_memfd
from shmhost.core.window import Allocator, Span, Window
from shmprotocol.abi.header import FLAG_SEAL_WRITER, HEADER_SIZE, KIND_BOARD, Header, page_up
from shmprotocol.errors import QuotaExceeded
from shmprotocol.kernel import board as memory
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE
from shmprotocol.wire import descriptors

LOG = logging.getLogger("shmhost")

MAX_SHARE = 16  # of the windows: more is left to regions
_SEALS = F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def open_board(allocator: Allocator, names: int) -> SharedBoard | None:
    """Return a board as `make_board` does; None, and a line in the log, also if there is no room.

    Neither that of the system nor addresses, as of a host that has lost its slice of a fleet.
    """
    try:
        return make_board(allocator, names, time.time_ns())
    except (OSError, QuotaExceeded) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        LOG.warning("there is no board, so clients ask each time what is current: %s", reason)
        return None


def make_board(allocator: Allocator, names: int, now_ns: int) -> SharedBoard | None:
    """Return a board for so many names, or None: without names, or where it would take much of the windows.

    OSError: the system has no memory or descriptor for it.
    """
    size = HEADER_SIZE + memory.size_of(names + 1)
    room = sum(window.size for window in allocator.windows) // MAX_SHARE
    taken = allocator.take(size) if names and size <= room else None
    if taken is None:
        return None
    try:
        return SharedBoard(*taken, names + 1, now_ns)
    except BaseException:
        allocator.give(taken[0])
        raise


class SharedBoard:
    """A board in shared memory, in a window. Used by the host's thread alone.

    It owns a descriptor, a mapping, and the robust mutex that says that the host lives: `close` ends all of
    them, in the thread that made the board. OSError: the system has no memory or descriptor for it.
    """

    def __init__(self, span: Span, window: Window, lines: int, now_ns: int) -> None:
        self._lines = Lines(lines)
        self.names: int = lines - 1
        self.span: Span = span
        size = HEADER_SIZE + memory.size_of(lines)
        capacity = page_up(size)
        self.range: tuple[int, int] = (span.address, capacity)
        self.span = span
        header = _header(span, window, size, capacity, lines, now_ns)
        with contextlib.ExitStack() as undo:
            writer = new_memfd("board:shmhost")
            undo.callback(os.close, writer)
            os.ftruncate(writer, capacity)
            os.fchmod(writer, 0o444)
            self._reader = descriptors.reopen(writer)
            undo.callback(self._reader.close)
            self._memory = memory.Writer(writer, capacity, lines)
            undo.callback(self._memory.close)
            self._first = self._memory.first
            os.pwrite(writer, header.pack(), 0)
            fcntl.fcntl(writer, fcntl.F_ADD_SEALS, _SEALS)
            undo.pop_all()
        os.close(writer)

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the board's."""
        return self._reader[0]

    def assign(self, shared: int) -> int:
        """Return a line for a region; see Board."""
        return self._lines.share(shared) if shared else self._lines.take()

    def release(self, line: int) -> bool:
        """Take note that a region with this line is freed; see Board."""
        return self._lines.release(line)

    def set(self, line: int, region: int, generation: int) -> None:
        """Say that a region is current on a line, and wake those who wait for that."""
        if line:
            self._memory.set(line, region, generation)

    def word(self, line: int) -> int:
        """Return the address of a line; see Board."""
        return self._first + line * memory.LINE_SIZE if line else 0

    def set_rights(self, line: int, rights: int) -> None:
        """Say that the rights to the region of a line have changed."""
        if line:
            self._memory.set_rights(line, rights)

    def set_arena(self, line: int, ledgers: int, waiters: int, size: int) -> None:
        """Write the words of an arena."""
        self._memory.set_arena(line, ledgers, waiters, size)

    def adopt_lines(self, users: dict[int, int]) -> None:
        """Go on with the lines of another host's board, which have so many users each."""
        self._lines.resume(users)

    def hand_over(self, arenas: Collection[int]) -> None:
        """Say that nobody knows what is current but the host; nothing is said on this board from then on.

        The lines of arenas stay as they are: those who look at them hear only that they have moved.
        """
        self._memory.disown()  # first: a line without a region means something as long as the host lives
        for line in self._lines.used():
            if line in arenas:
                self._memory.move_arena(line)
            else:
                self._memory.set(line, 0, 0)

    def take_back(self) -> None:
        """Serve again after `hand_over`; the lines are without a word."""
        self._memory.own()

    def close(self) -> None:
        """Say that the host is gone, and give everything back. Clients keep what they have mapped."""
        self._memory.close()
        self._reader.close()


def _header(span: Span, window: Window, size: int, capacity: int, lines: int, now_ns: int) -> Header:
    data = span.address + HEADER_SIZE
    return Header(
        kind=KIND_BOARD,
        flags=FLAG_SEAL_WRITER,
        base=span.address,
        size=size,
        capacity=capacity,
        data=data,
        data_size=memory.size_of(lines),
        root=data,
        root_size=memory.size_of(lines),
        generation=1,
        created_ns=now_ns,
        creator_uid=os.getuid(),
        creator_gid=os.getgid(),
        creator_pid=os.getpid(),
        window_base=window.base,
        window_size=window.size,
        metadata=0,
        metadata_size=0,
        name="board",
    )
