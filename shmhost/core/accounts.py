"""Charges: what a region costs, held as a token and undone by releasing the token. Pure.

There is one account for the whole host so far; accounts for each uid go here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from shmprotocol.errors import QuotaExceeded
from shmprotocol.wire.names import State

Key = TypeVar("Key")


class Charge:
    """Bytes taken from a budget until `release`, which may be called again without effect."""

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self.size = size

    def release(self) -> None:
        """Give the bytes back."""
        self._budget.used -= self.size
        self.size = 0


class Tallies:
    """How many regions there are by state and by uid, with the bytes of their objects; and leases by state.

    Kept as they change: a scrape must not look at every region.
    """

    def __init__(self) -> None:
        self._states: dict[State, list[int]] = {}
        self._users: dict[int, list[int]] = {}

    def add(self, state: State, uid: int, regions: int, capacity: int, leases: int) -> None:
        """Count regions, bytes and leases in, or out where they are negative."""
        _change(self._states, state, (regions, capacity, leases))
        _change(self._users, uid, (regions, capacity))

    def lease(self, state: State, change: int) -> None:
        """Count leases in, or out where they are negative, of regions that are counted."""
        self._states[state][2] += change

    def states(self) -> dict[State, tuple[int, int, int]]:
        """Return regions, bytes and leases by state, of the states that there are."""
        return {state: (row[0], row[1], row[2]) for state, row in self._states.items()}

    def users(self) -> dict[int, tuple[int, int]]:
        """Return regions and bytes by uid, of those who have any."""
        return {uid: (row[0], row[1]) for uid, row in self._users.items()}


def _change(table: dict[Key, list[int]], key: Key, changes: Sequence[int]) -> None:
    row = table.setdefault(key, [0] * len(changes))
    for place, change in enumerate(changes):
        row[place] += change
    if not any(row):
        del table[key]


class Budget:
    """The bytes of memory that the host gives out at most.

    A memfd has no limit of its own, and a memory cgroup answers with SIGKILL instead of an error: this
    is what turns "too much" into QuotaExceeded.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def charge(self, size: int) -> Charge:
        """Take bytes, or raise QuotaExceeded with the figures."""
        if size > self.limit - self.used:
            raise QuotaExceeded(
                f"{size} bytes are over the host's budget: {self.used} of {self.limit} are in use. "
                "Unlink what is not needed, or start the host with a larger --budget"
            )
        self.used += size
        return Charge(self, size)
