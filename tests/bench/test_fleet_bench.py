"""The figures of a fleet: what the page says of a run, and that a run measures what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import fleet
from benchmarks.fleet_hosts import hosts, sink
from benchmarks.measure import Figure
from benchmarks.results import FLOOR, OURS, Row, Run, read
from shmprotocol.kernel.constants import KIB, MIB

MACHINE = {"cpu": "x", "cpus": "2", "memory": "1 GiB", "kernel": "6", "python": "3", "load": "0"}


def figure(value: float) -> Figure:
    return Figure(value, value, value, value, 1)


def test_page_says_the_ratio_and_whether_the_aim_is_met() -> None:
    figures = {OURS: figure(2e6), FLOOR: figure(1e6), fleet.RAY: figure(3e6)}
    rows = (
        Row("trip/1073741824", "1 GiB", figures=figures, aim_ratio=1.3),
        Row("spread/2", "1 GiB to 2 importers", "GiB/s", {OURS: figure(1.5)}),
    )
    text = fleet.section(Run("today", MACHINE, {OURS: "1", fleet.RAY: "2"}, rows=rows))
    assert "| 1 GiB | 2,000 ms | 1,000 ms | 2.00 (aim 1.3: MISSED 1.54x) | 3,000 ms |" in text
    assert "| All together, 1 GiB to 2 importers | 1.50 GiB/s |" in text


def test_page_has_the_figures_of_the_kept_run() -> None:
    assert fleet.section(read(fleet.KEPT)) in fleet.PAGE.read_text("utf-8")


def test_run_without_ray_says_why() -> None:
    figures, _, reason = fleet.ray_rows(sys.executable, [KIB])
    if not figures:
        assert "No module named 'ray'" in reason


def test_trip_takes_all_of_put_and_the_floor_copies_all_bytes(tmp_path: Path) -> None:
    pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
    with hosts(tmp_path, 2, 64 * MIB) as (first, second), sink() as floor:
        pair = fleet.Pair(first, second)
        (row,) = fleet.trips(pair, floor, KIB, samples=2, rounds=1)
        assert row.figures[OURS].p50 > row.figures[FLOOR].p50 > 0
        assert row.figures[OURS].samples == 2
        pair.close()
        assert fleet.spread([first, second], KIB, 1).p50 > 0
