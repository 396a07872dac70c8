"""Statistics of samples."""

from __future__ import annotations

import pytest

from benchmarks.measure import Figure, paired, percentile, summary, time_batches_us


def test_median_and_bounds_are_of_all_rounds() -> None:
    figure = summary([[1.0, 2.0, 3.0], [5.0, 5.0, 8.0]])

    assert figure == Figure(p50=4.0, p99=8.0, low=2.0, high=5.0, samples=6)
    assert figure.spread == pytest.approx(0.75)


def test_percentile_is_the_nearest_rank() -> None:
    hundred = [float(number) for number in range(1, 101)]

    assert percentile(hundred, 99) == 99
    assert percentile(hundred[:99], 99) == 99
    assert percentile(hundred, 100) == 100
    assert percentile([7.0], 1) == 7


def test_rounds_without_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        summary([[]])


def test_first_round_of_a_pair_only_warms_up() -> None:
    calls: list[str] = []

    ours, other = paired(lambda: calls.append("ours"), lambda: calls.append("other"), rounds=2, samples=3)

    assert calls == (["ours"] * 3 + ["other"] * 3) * 3
    assert (ours.samples, other.samples) == (6, 6)


def test_batches_count_each_call() -> None:
    calls: list[int] = []

    times = time_batches_us(lambda: calls.append(1), batches=4, calls=25)

    assert (len(times), len(calls)) == (4, 100)
