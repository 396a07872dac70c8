"""A host's counters since it started, and its current totals: counts, latencies. Pure; callers have a clock.

A request costs two looks at the clock and one `add`, so that measuring is always on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from shmprotocol.wire.names import State

# Upper bounds in nanoseconds, 10 us to 1 s: an answer takes some 10 us, sealing a GiB a tenth of a second.
BOUNDS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 100_000_000, 1_000_000_000)


class Latency:
    """The latencies of one kind of request, from the start of its handling to the end."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts: list[int] = [0] * (len(BOUNDS) + 1)  # for each bound those up to it, and the rest
        self.total_ns: int = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


class Meter:
    """The counters of a host. `started_ns` is CLOCK_REALTIME, `restarts` the number of earlier starts."""

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.restarts = 0
        self.connections = 0
        self.dropped = 0
        self.refusals: Counter[str] = Counter()
        self.latencies: dict[str, Latency] = {}

    def add(self, operation: str, duration_ns: int) -> None:
        """Count an answered request; a request for which its client was dropped does not count."""
        latency = self.latencies.get(operation)
        if latency is None:
            latency = self.latencies[operation] = Latency()
        latency.counts[bisect_left(BOUNDS, duration_ns)] += 1
        latency.total_ns += duration_ns


class Tallies:
    """How many regions there are by state and by uid, with the bytes of their objects; and leases by state.

    Kept as they change: a scrape must not look at every region.
    """

    def __init__(self) -> None:
        self._states = {state: [0, 0, 0] for state in State}
        self._users: dict[int, list[int]] = {}

    def add(self, state: State, uid: int, capacity: int) -> None:
        """Count a new region, which has no lease."""
        self._count(state, 1, capacity, 0)
        row = self._users.setdefault(uid, [0, 0])
        row[0] += 1
        row[1] += capacity

    def move(self, before: State, after: State, uid: int, capacity: int, leases: int) -> None:
        """Count a region in its next state, and no more once it is FREED."""
        self._count(before, -1, -capacity, -leases)
        if after is not State.FREED:
            self._count(after, 1, capacity, leases)
            return
        row = self._users[uid]
        row[0] -= 1
        row[1] -= capacity
        if not row[0]:
            del self._users[uid]

    def lease(self, state: State, change: int) -> None:
        """Count leases in, or out where they are negative, of regions that are counted."""
        self._states[state][2] += change

    def states(self) -> dict[State, tuple[int, int, int]]:
        """Return regions, bytes and leases by state, of the states that there are."""
        return {state: (row[0], row[1], row[2]) for state, row in self._states.items() if row[0]}

    def users(self) -> dict[int, tuple[int, int]]:
        """Return regions and bytes by uid, of those who have any."""
        return {uid: (row[0], row[1]) for uid, row in self._users.items()}

    def _count(self, state: State, regions: int, capacity: int, leases: int) -> None:
        row = self._states[state]
        row[0] += regions
        row[1] += capacity
        row[2] += leases
