"""The simulation of a fleet, small, and what its page says."""

from __future__ import annotations

import pytest

from benchmarks import sizing
from benchmarks.sizing import GBIT, Plan, simulate
from shmprotocol.kernel.constants import GIB, MIB


def test_one_importer_takes_the_time_of_a_line() -> None:
    outcome = simulate(Plan(2, GIB, GBIT))
    assert outcome.all_s == pytest.approx(GIB / GBIT, rel=0.01)
    assert outcome.most_sent == GIB


def test_importers_that_take_all_at_once_share_the_line_of_one() -> None:
    outcome = simulate(Plan(20, GIB, GBIT, at_once=20))
    assert outcome.all_s == pytest.approx(19 * GIB / GBIT, rel=0.05)
    assert outcome.half_s > 0.9 * outcome.all_s


def test_turns_make_sources_of_those_that_were_first() -> None:
    many, few = (simulate(Plan(hosts, GIB, GBIT, chunks=16)) for hosts in (60, 20))
    assert many.all_s < 15 * GIB / GBIT
    assert many.all_s < 2 * few.all_s
    assert many.most_sent < 15 * GIB


def test_small_region_goes_to_all_at_once() -> None:
    assert simulate(Plan(50, MIB, GBIT)).most_sent == 49 * MIB


def test_page_has_tables_for_each_count_and_each_check() -> None:
    rows = [{"hosts": 3, "size": 64 * MIB, "line": 16 * MIB, "real_s": 8.1, "simulated_s": 8.0}]
    text = sizing.section(rows, (3, 4))
    assert "| 3 | 64 MiB | 16 MiB/s | 8.10 s | 8.00 s |" in text
    assert "| 4 | 0.9 kB/s | 1.2 kB/s | 3.0 MB |" in text
    assert "<!-- sizing: begin" in sizing.PAGE.read_text("utf-8")
