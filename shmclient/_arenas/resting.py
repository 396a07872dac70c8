"""Where a value of an arena stands, and how to rest until it changes. Does no I/O but sleep in the kernel."""

from __future__ import annotations

import errno
import time
from typing import Any

from shmprotocol.kernel.board import Waker
from shmprotocol.native.builtins import HeldValue

ABSENT = 2  # in the word of an entry: see `shm_arena_layout.h`
PAUSE_S = 0.001  # before Linux 5.16, under a seccomp filter that forbids futex_waitv, and in greenlets
_LOOK_AGAIN_NS = 5_000_000_000  # as for the board: an owner can be killed between a flip and its wake


class Position:
    """A name in an arena, and the word of its entry, now or that of a value: no word stands for two values.

    `entry` is None as long as the name never had a value: it is waited for by the arena's count of changes.
    """

    def __init__(self, reader: Any, name: str, word: int | None = None) -> None:
        self.reader = reader
        self.name = name
        self.changes: int = reader._counts()[3]
        entry = reader._entry(name)
        self.entry: int | None = None
        self.word = 0
        if entry is not None:
            self.entry, self.word = entry
        if word is not None:
            self.word = word

    @property
    def generation(self) -> int:
        """The generation of the value, or of its removal; 0: there was none."""
        return self.word >> 2

    def is_same_as(self, other: Position) -> bool:
        """Whether both are of one value, though perhaps as two connections read it."""
        return self.word == other.word and bool(self.reader.is_same_as(other.reader))

    def has_changed(self) -> bool:
        """Whether the name has another value now, or none, or has one for the first time."""
        entry = self.reader._entry(self.name)
        return entry is not None and entry[1] != self.word

    def has_moved(self) -> bool:
        """Whether its word, or without one the arena's count of changes, is another now."""
        if self.entry is None:
            return int(self.reader._counts()[3]) != self.changes
        return self.has_changed()

    def has_value(self) -> bool:
        """Whether the name has a value now."""
        entry = self.reader._entry(self.name)
        return entry is not None and not entry[1] & ABSENT

    def take(self, held: HeldValue) -> Any:
        """Return a value of the name, which stands here from now on."""
        self.entry, self.word = held.entry, held.word
        return self.reader._value(held)

    def take_note(self, held: HeldValue) -> None:
        """Have a value of the name stand here from now on, as `take` does."""
        self.entry, self.word = held.entry, held.word

    def seen(self) -> int:
        """Return the half of the word that a sleeper compares."""
        return self.changes if self.entry is None else self.word & 0xFFFFFFFF


def rest(position: Position, line_changes: int, owner: int, waker: Waker, wakes: int, wait_s: float) -> bool:
    """Sleep until a value changes, its arena's line of the board does, or the waker is used, or `wait_s`.

    `line_changes` and `wakes` are the numbers from before the looks. The end of a host ends it, too, if
    `owner` is the address of its board's word. False: nothing of that is known to have happened. Where the
    kernel lets nobody sleep on several words, it is a short pause.
    """
    reader = position.reader
    wait_ns = min(int(min(wait_s, 1e6) * 1e9), _LOOK_AGAIN_NS)
    words = (position.entry, position.seen(), reader.line, line_changes, owner, waker.address, wakes)
    error = reader._sleep(*words, wait_ns)
    if error in (errno.ENOSYS, errno.EPERM, errno.ENOLCK):
        time.sleep(min(wait_s, PAUSE_S))
        return True
    return bool(error == 0)
