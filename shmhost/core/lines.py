"""The lines of the board, as they are given to names. Pure; knows no memory."""

from __future__ import annotations

from collections import deque


class Lines:
    """The lines 1 to `count` - 1. A line has as many users as regions say it in their grants.

    A line without users is given again as late as possible. Nothing depends on that: a reader compares the
    number of a region, which no other region ever has.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 1  # the lines from here on were never given
        self._free: deque[int] = deque()
        self._users: dict[int, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether every line has a user."""
        return len(self._users) >= self._count - 1

    def take(self) -> int:
        """Return a line, with its first user; 0 if all have some."""
        if self._next < self._count:
            line = self._next
            self._next += 1
        elif self._free:
            line = self._free.popleft()
        else:
            return 0
        self._users[line] = 1
        return line

    def resume(self, users: dict[int, int]) -> None:
        """Take lines with so many users each, when none was given yet."""
        self._users = dict(users)
        self._next = max(users, default=0) + 1
        self._free = deque(line for line in range(1, self._next) if line not in users)

    def used(self) -> list[int]:
        """Return the lines that have users."""
        return list(self._users)

    def share(self, line: int) -> int:
        """Return a line that has users, with one more."""
        self._users[line] += 1
        return line

    def release(self, line: int) -> bool:
        """Give up a use of a line, or nothing for line 0; return whether it has no users any more."""
        if not line:
            return False
        self._users[line] -= 1
        if self._users[line]:
            return False
        del self._users[line]
        self._free.append(line)
        return True
