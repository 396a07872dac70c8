"""Compares two calls: in turn, in a pinned process, by the medians of all samples."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A figure: medians in microseconds, and the largest ratio that is acceptable, if there is an aim."""

    what: str
    cpus: str
    ours: float
    yardstick: float
    aim: float | None = None

    @property
    def ratio(self) -> float:
        return self.ours / self.yardstick


def time_us(call: Callable[[], object], samples: int) -> list[float]:
    """Return the time of each call in microseconds."""
    clock = time.perf_counter_ns
    times = []
    for _ in range(samples):
        began = clock()
        call()
        times.append((clock() - began) / 1000)
    return times


def paired(
    ours: Callable[[], object], other: Callable[[], object], rounds: int, samples: int
) -> tuple[float, float]:
    """Return the medians of both, measured in turn; the first round of each warms up."""
    mine: list[float] = []
    theirs: list[float] = []
    for turn in range(rounds + 1):
        a, b = time_us(ours, samples), time_us(other, samples)
        if turn:
            mine += a
            theirs += b
    return statistics.median(mine), statistics.median(theirs)
