"""The figures of a fleet: what the page says of a run, and that a run measures what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import fleet, fleet_peers, fleet_steady
from benchmarks.fleet_hosts import Pair, hosts, sink
from benchmarks.fleet_page import section
from benchmarks.fleet_peers import RAY, VINEYARD, answer_of
from benchmarks.measure import Figure
from benchmarks.results import FLOOR, OURS, Row, Run, read
from shmprotocol.kernel.constants import KIB, MIB

MACHINE = {"cpu": "x", "cpus": "2", "memory": "1 GiB", "kernel": "6", "python": "3", "load": "0"}


def figure(value: float) -> Figure:
    return Figure(value, value, value, value, 1)


def test_page_says_the_ratio_and_whether_the_aim_is_met() -> None:
    figures = {OURS: figure(2e6), FLOOR: figure(1e6), RAY: figure(3e6), VINEYARD: figure(4e6)}
    row = Row("trip/1073741824", "1 GiB", figures=figures, aim_ratio=1.3)
    text = section(Run("today", MACHINE, {OURS: "1", RAY: "2", VINEYARD: "3"}, rows=(row,)))
    assert "| 1 GiB | 2,000 ms | 1,000 ms | 2.00 (aim 1.3: MISSED 1.54x) | 3,000 ms | 4,000 ms |" in text
    assert "Vineyard 3: " in text


def test_page_says_what_was_not_measured_and_why() -> None:
    row = Row("trip/1024", "1 KiB", figures={OURS: figure(2e3), FLOOR: figure(1e3)})
    text = section(Run("today", MACHINE, {OURS: "1"}, {VINEYARD: "no etcd", "recovery": "no rights"}, (row,)))
    assert "| 1 KiB | 2.00 ms | 1.00 ms | 2.00 |\n" in text
    assert "Vineyard was not measured: no etcd.\nRecovery was not measured: no rights." in text


def test_page_has_the_cpu_of_a_value_beside_its_lag() -> None:
    rows = (
        Row("lag/region/1024", "A region", figures={OURS: figure(7e3)}),
        Row("each/exports/region/1024", "", figures={OURS: figure(300)}),
        Row("each/imports/region/1024", "", figures={OURS: figure(500)}),
        Row("spread/2", "1 GiB to 2 importers", "GiB/s", {OURS: figure(1.5)}),
    )
    text = section(Run("today", MACHINE, {OURS: "1"}, rows=rows))
    assert "| A region | 7.00 ms | 7.00 ms | 300 us | 500 us |" in text
    assert "| 1 GiB to 2 importers | 1.50 GiB/s |  |" in text


def test_page_has_the_figures_of_the_kept_run() -> None:
    assert section(read(fleet.KEPT)) in fleet.PAGE.read_text("utf-8")


def test_run_without_a_peer_says_why() -> None:
    for peer in fleet_peers.SCRIPTS:
        figures, _, reason = fleet_peers.trips(peer, sys.executable, [KIB])
        if not figures:
            assert f"No module named '{peer}'" in reason


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        ("print('{\"us\": {}}')", ({"us": {}}, "")),
        ("import sys; sys.exit('not\\nhere')", ({}, "here")),
        ("", ({}, "it has said nothing")),
        ("import time; time.sleep(60)", ({}, "it took longer than 0.5 s")),
    ],
)
def test_answer_is_the_last_line_or_the_reason(code: str, answer: tuple[Any, str]) -> None:
    limit_s = 0.5 if "sleep" in code else 60
    assert answer_of([sys.executable, "-c", code], limit_s, cwd="/") == answer


def test_trip_takes_all_of_put_and_the_floor_copies_all_bytes(tmp_path: Path) -> None:
    pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
    with hosts(tmp_path, 2, 64 * MIB, lag=0.0) as (first, second), sink() as floor:
        pair = Pair(first, second)
        (row,) = fleet.trips(pair, floor, KIB, samples=2, rounds=1)
        assert row.figures[OURS].p50 > row.figures[FLOOR].p50 > 0
        assert row.figures[OURS].samples == 2
        for kind in fleet_steady.KINDS:
            late, here, there = fleet_steady.stream(pair, kind, KIB, 20, 0.2)
            assert 1 <= late.figures[OURS].samples <= 4
            assert here.figures[OURS].p50 > 0 < there.figures[OURS].p50
        pair.close()
        assert fleet.spread([first, second], KIB, 1).p50 > 0
