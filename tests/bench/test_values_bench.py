"""The benchmark of values, with tiny ones, and the tables that are made of its runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_page import MACHINE

from benchmarks import page, values
from benchmarks.measure import Figure
from benchmarks.results import Row, Run, dump, load, read

OWN = ["shmhost", "arena", "reference", "pipe"]
ROADS = {
    "array": [*OWN, "joblib"],
    "object": [*OWN, "joblib"],
    "tensor": [*OWN, "torch"],
    "table": [*OWN, "ipc"],
}


def test_each_kind_takes_all_its_roads_and_says_why_not_the_others() -> None:
    said: list[str] = []
    run = values.measure({1 << 10: 1}, 1, said.append)

    kinds = [kind.name for kind in values.KINDS if kind.name != "tensor" or "torch" not in run.absent]
    assert [row.key for row in run.rows] == [
        f"{kind}/{what}/1024" for kind in kinds for what in ("new", "again")
    ]
    for row in run.rows:
        roads = ROADS[row.key.partition("/")[0]]
        assert list(row.figures) == roads
        assert all(figure.p50 > 0 and figure.samples == 1 for figure in row.figures.values())
        assert {*row.figures, *row.notes} == set(values.DISTRIBUTIONS)
    assert said == [row.title for row in run.rows]
    assert dump(load(dump(run))) == dump(run)
    if "torch" in run.absent:
        pytest.skip("NOT TESTED: tensors, because torch is not installed")


def test_table_has_a_column_for_each_road_and_the_shortest_is_bold() -> None:
    figures = {road: Figure(time, time, time, time, 3) for road, time in (("shmhost", 5000), ("pipe", 20))}
    row = Row("array/new/1024", "Array, 1 KiB, new, read whole", figures=figures)
    run = Run("today", MACHINE, {"shmhost": "1", "pipe": ""}, {"torch": "it is not installed"}, (row,))

    text = page.values_section(run)

    assert "| Array | `put`, `get` | pickle, pipe |" in text
    assert "| 1 KiB, new, read whole | 5.00 ms | **20.0 us** |" in text
    assert "- `torch.multiprocessing` was not measured: it is not installed." in text


def test_page_is_what_the_kept_run_gives(tmp_path: Path) -> None:
    copy = tmp_path / "values.md"
    copy.write_text(page.VALUES.read_text("utf-8"), "utf-8")

    page.write_values(read(page.FOLDER / "values.json"), copy)

    assert copy.read_text("utf-8") == page.VALUES.read_text("utf-8")
