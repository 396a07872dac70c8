"""What a host has done since it began: counts and latencies. Pure; who calls has a clock.

A request costs two looks at the clock and one `add`, so that measuring is always on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

# Upper bounds in nanoseconds, 10 us to 1 s: an answer takes some 10 us, sealing a GiB a tenth of a second.
BOUNDS = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 100_000_000, 1_000_000_000)


class Latency:
    """How long the requests of one kind took, from the first look at the message to the last word of it."""

    __slots__ = ("counts", "total_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)  # for each bound those up to it, and the rest
        self.total_ns = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)


class Meter:
    """The counters of a host. `started_ns` is CLOCK_REALTIME, `restarts` how often it was started before."""

    def __init__(self, started_ns: int) -> None:
        self.started_ns = started_ns
        self.restarts = 0
        self.connections = 0
        self.dropped = 0
        self.refusals: Counter[str] = Counter()
        self.latencies: dict[str, Latency] = {}

    def add(self, operation: str, duration_ns: int) -> None:
        """Count a request that was answered; one that its client was dropped for is not."""
        latency = self.latencies.get(operation)
        if latency is None:
            latency = self.latencies[operation] = Latency()
        latency.counts[bisect_left(BOUNDS, duration_ns)] += 1
        latency.total_ns += duration_ns
