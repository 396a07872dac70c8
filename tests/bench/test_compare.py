"""A run against one that was kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.compare import change, compare, main, report
from benchmarks.measure import Figure
from benchmarks.results import FLOOR, OURS, Row, Run, dump


def row(key: str, ours: float, floor: float | None = None, more_is_better: bool = False) -> Row:
    values = {OURS: ours} | ({} if floor is None else {FLOOR: floor})
    figures = {road: Figure(value, value, value, value, 1) for road, value in values.items()}
    return Row(key, key, figures=figures, more_is_better=more_is_better)


def run(*rows: Row) -> Run:
    return Run("", {}, {}, rows=rows)


def test_slower_machine_is_not_slower_code() -> None:
    assert not change(row("put", 100, 50), row("put", 300, 150)).is_flagged


def test_row_is_flagged_above_the_tolerance_alone() -> None:
    assert not change(row("put", 100, 100), row("put", 115, 100)).is_flagged
    assert change(row("put", 100, 100), row("put", 116, 100)).is_flagged


def test_rows_without_a_floor_are_compared_as_they_are() -> None:
    assert not change(row("pss", 100), row("pss", 150)).is_flagged
    assert change(row("pss", 100), row("pss", 151)).is_flagged


def test_row_is_flagged_only_beyond_the_spread_of_its_rounds() -> None:
    def noisy(p50: float, low: float, high: float) -> Row:
        return Row(
            "many", "many", figures={OURS: Figure(p50, p50, low, high, 3), FLOOR: Figure(1, 1, 1, 1, 3)}
        )

    assert not change(noisy(100, 80, 150), noisy(150, 120, 190)).is_flagged
    assert change(noisy(100, 95, 105), noisy(150, 145, 155)).is_flagged


def test_falling_rate_is_slower() -> None:
    old, new = (row("rate", rate, 100, more_is_better=True) for rate in (200.0, 100.0))

    assert change(old, new).slower == 2
    assert not change(new, old).is_flagged


def test_missing_row_is_reported_and_new_one_is_not() -> None:
    changes, lost = compare(run(row("old", 1), row("both", 1)), run(row("both", 1), row("new", 1)))

    assert [entry.title for entry in changes] == ["both"]
    assert lost == ["old"]
    assert "MISSING   old" in report(changes, lost)


@pytest.mark.parametrize(("ours", "code"), [(100.0, 0), (200.0, 1)])
def test_exit_code_says_whether_a_row_is_slower(
    ours: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(dump(run(row("put", 100, 100))))
    new.write_text(dump(run(row("put", ours, 100))))

    assert main([str(old), str(new)]) == code
    assert ("SLOWER" in capsys.readouterr().out) is bool(code)


def test_unreadable_run_is_another_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.json").write_text("{")

    assert main([str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 2
    assert "cannot compare" in capsys.readouterr().err
