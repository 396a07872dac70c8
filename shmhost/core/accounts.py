"""Charges: the cost of a region, held as a token and undone by releasing the token. Pure.

There is one account for the whole host so far; accounts for each uid go here.
"""

from __future__ import annotations

from shmprotocol.errors import QuotaExceeded


class Charge:
    """Bytes taken from a budget until `release`, which may be called again without effect."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self.size: int = size

    def release(self) -> None:
        """Give the bytes back."""
        self.shrink(0)

    def shrink(self, size: int) -> None:
        """Give back all but this many bytes."""
        self._budget.used -= self.size - size
        self.size = size

    def grow(self, size: int) -> None:
        """Take more, up to this many bytes, or raise QuotaExceeded."""
        self._budget.charge(size - self.size)
        self.size = size


class Budget:
    """The limit of the memory for regions, in bytes.

    A memfd has no limit of its own, and a memory cgroup answers with SIGKILL instead of an error: the
    budget turns "too much" into QuotaExceeded.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used: int = 0

    def charge(self, size: int) -> Charge:
        """Take bytes, or raise QuotaExceeded with the figures."""
        if size > self.limit - self.used:
            raise QuotaExceeded(
                f"{size} bytes are over the host's budget: {self.used} of {self.limit} are in use. "
                "Unlink regions that you do not need, or start the host with a larger --budget"
            )
        return self.take(size)

    def take(self, size: int) -> Charge:
        """Take bytes that are in use already, whatever the limit is."""
        self.used += size
        return Charge(self, size)
