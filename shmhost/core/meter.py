"""A host's counters since it started, and its current totals: counts, latencies. Pure; callers have a clock.

A request costs two looks at the clock and one `add`, so that measuring is always on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

from shmprotocol.wire.names import State

# Upper bounds in nanoseconds, 10 us to 1 s: an answer takes some 10 us, sealing a GiB a tenth of a second.
BOUNDS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 100_000_000, 1_000_000_000)


class Latency:
    """How long things of one kind took, such as requests, from the start of their handling to the end."""

    __slots__ = ("bounds", "counts", "total_ns")

    def __init__(self, bounds: Sequence[int] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)  # for each bound those up to it, and the rest
        self.total_ns: int = 0

    def note(self, duration_ns: int) -> None:
        """Count one that took this long."""
        self.counts[bisect_left(self.bounds, duration_ns)] += 1
        self.total_ns += duration_ns

    def copy(self) -> Latency:
        """Return the figures of now, for another thread."""
        copy = Latency(self.bounds)
        copy.counts, copy.total_ns = list(self.counts), self.total_ns
        return copy

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
        self.latencies: defaultdict[str, Latency] = defaultdict(Latency)

    def add(self, operation: str, duration_ns: int) -> None:
        """Count an answered request; a request for which its client was dropped does not count."""
        self.latencies[operation].note(duration_ns)

    def add_answers(self, releases: int, last: str, duration_ns: int) -> None:
        """Count Releases and a last request, if any, that were answered together: each took its part."""
        share_ns = duration_ns // (releases + 1 if last else releases)
        bucket = bisect_left(BOUNDS, share_ns)
        if releases:
            latency = self.latencies["release"]
            latency.counts[bucket] += releases
            latency.total_ns += share_ns * releases
        if last:
            latency = self.latencies[last]
            latency.counts[bucket] += 1
            latency.total_ns += share_ns


class Tally:
    """How many regions there are in one state, the bytes of their objects, and their leases."""

    __slots__ = ("capacity", "leases", "regions")

    def __init__(self) -> None:
        self.regions: int = 0
        self.capacity: int = 0
        self.leases: int = 0

    def add(self, regions: int, capacity: int, leases: int) -> None:
        """Count in, or out where the numbers are negative."""
        self.regions += regions
        self.capacity += capacity
        self.leases += leases


class Tallies:
    """How many regions there are by state and by uid, with the bytes of their objects; and leases by state.

    Kept as they change: a scrape must not look at every region.
    """

    def __init__(self) -> None:
        self._states = {state: Tally() for state in State}
        self._users: dict[int, list[int]] = {}

    def add(self, state: State, uid: int, capacity: int) -> Tally:
        """Count a new region, which has no lease; return the tally of its state, for its leases."""
        row = self._users.setdefault(uid, [0, 0])
        row[0] += 1
        row[1] += capacity
        tally = self._states[state]
        tally.add(1, capacity, 0)
        return tally

    def move(self, before: Tally, after: State, uid: int, capacity: int, leases: int) -> Tally:
        """Count a region in its next state, and no more once it is FREED; return the tally of that state."""
        before.add(-1, -capacity, -leases)
        tally = self._states[after]
        if after is not State.FREED:
            tally.add(1, capacity, leases)
            return tally
        row = self._users[uid]
        row[0] -= 1
        row[1] -= capacity
        if not row[0]:
            del self._users[uid]
        return tally

    def resize(self, tally: Tally, uid: int, change: int) -> None:
        """Count bytes of a region's object in, or out where they are negative."""
        tally.capacity += change
        self._users[uid][1] += change

    def states(self) -> dict[State, tuple[int, int, int]]:
        """Return regions, bytes and leases by state, of the states that there are."""
        return {
            state: (tally.regions, tally.capacity, tally.leases)
            for state, tally in self._states.items()
            if tally.regions
        }

    def users(self) -> dict[int, tuple[int, int]]:
        """Return regions and bytes by uid, of those who have any."""
        return {uid: (row[0], row[1]) for uid, row in self._users.items()}
