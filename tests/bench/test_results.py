"""Rows, aims, and runs as JSON."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.measure import Figure
from benchmarks.results import FLOOR, OURS, Row, Run, dump, load


def figure(p50: float) -> Figure:
    return Figure(p50, p50 * 2, p50 / 2, p50 * 2, 100)


def row(ours: float, floor: float, **fields: float) -> Row:
    return Row("key", "title", figures={OURS: figure(ours), FLOOR: figure(floor)}, **fields)  # type: ignore[arg-type]


def test_ratio_is_to_the_floor_of_the_same_row() -> None:
    assert row(50, 20).ratio() == 2.5
    assert Row("key", "title", figures={OURS: figure(1)}).ratio() is None


def test_aim_is_met_at_its_limit_and_missed_above() -> None:
    assert not row(25, 20, aim_ratio=1.25).is_missed
    assert row(25.1, 20, aim_ratio=1.25).is_missed
    assert not row(40, 1, aim=40).is_missed
    assert row(40.1, 1, aim=40).is_missed


def test_tighter_of_two_aims_counts() -> None:
    assert row(1, 20, aim_ratio=4, aim=60).limit == 60
    assert row(1, 10, aim_ratio=4, aim=60).limit == 40


def test_row_without_an_aim_is_never_missed() -> None:
    assert row(1000, 1).limit is None
    assert not row(1000, 1).is_missed


def test_run_survives_json() -> None:
    run = Run("2026-01-02 03:04 UTC", {"cpu": "x"}, {OURS: "1"}, {"peer": "no wheel"})
    run = run.with_rows(row(1.5, 1), dataclasses.replace(row(2, 1), notes={"peer": "cannot"}))

    assert load(dump(run)) == run


def test_unknown_format_is_refused() -> None:
    text = dump(Run("", {}, {})).replace('"format": 1', '"format": 2')

    with pytest.raises(ValueError, match="format 2 is not 1"):
        load(text)
