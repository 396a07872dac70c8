"""Times calls in rounds: each round measures every road in turn, so that a drift of the machine hits all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat

Call = Callable[[], object]
Samples = Callable[[], list[float]]


@dataclass(frozen=True)
class Figure:
    """The samples of one road, summed up: median, 99th percentile, lowest and highest median of a round."""

    p50: float
    p99: float
    low: float
    high: float
    samples: int

    @property
    def spread(self) -> float:
        """How far the medians of the rounds lie apart, as a part of the median."""
        return (self.high - self.low) / self.p50 if self.p50 else 0.0


def summary(rounds: list[list[float]]) -> Figure:
    """Sum up the samples of all rounds; a road without any sample is a ValueError."""
    samples = sorted(sample for samples in rounds for sample in samples)
    if not samples:
        raise ValueError("no samples: measure at least one round")
    medians = [statistics.median(samples) for samples in rounds if samples]
    p50 = statistics.median(samples)
    return Figure(p50, percentile(samples, 99), min(medians), max(medians), len(samples))


def percentile(ordered: list[float], percent: float) -> float:
    """Return the smallest sample that at least `percent` of all samples do not exceed (nearest rank)."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def time_us(call: Call, samples: int) -> list[float]:
    """Return the time of each call in microseconds."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(samples):
        began = clock()
        call()
        times.append((clock() - began) / 1000)
    return times


def time_batches_us(call: Call, batches: int, calls: int) -> list[float]:
    """Return the mean time of a call in microseconds, by batches: for calls as short as a clock's own."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(batches):
        began = clock()
        for _ in repeat(None, calls):
            call()
        times.append((clock() - began) / 1000 / calls)
    return times


def paired(ours: Call, other: Call, rounds: int, samples: int, calls: int = 1) -> tuple[Figure, Figure]:
    """Measure both in turn; the first round of each warms up and does not count."""

    def times(call: Call) -> list[float]:
        return time_us(call, samples) if calls == 1 else time_batches_us(call, samples, calls)

    return in_turn(lambda: times(ours), lambda: times(other), rounds)


def in_turn(ours: Samples, other: Samples, rounds: int) -> tuple[Figure, Figure]:
    """The same for roads that take their own time: each returns the samples of a round."""
    pairs = [(ours(), other()) for _ in range(rounds + 1)][1:]
    return summary([mine for mine, _ in pairs]), summary([theirs for _, theirs in pairs])
