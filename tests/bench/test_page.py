"""The page and its charts, from runs."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import page
from benchmarks.chart import Bar, Line, Scale, bars, duration, lines
from benchmarks.measure import Figure
from benchmarks.results import ARENA, FLOOR, OURS, Row, Run, read
from benchmarks.table import number, ordered, readable, verdict

MACHINE = {"cpu": "x", "cpus": "2", "memory": "1 GiB", "kernel": "6", "python": "3", "load": "0"}


def row(key: str, values: dict[str, float], **fields: object) -> Row:
    figures = {road: Figure(value, value * 2, value, value, 100) for road, value in values.items()}
    return Row(key, key, figures=figures, **fields)  # type: ignore[arg-type]


def run(*rows: Row) -> Run:
    return Run(
        "today", MACHINE, {OURS: "1", FLOOR: "", "posix_ipc": "2", "redis": "3"}, {"pyzmq": "no wheel"}, rows
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0443, "0.044"),
        (1.237, "1.24"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234567.0, "1,234,567"),
    ],
)
def test_numbers_have_three_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_long_times_are_milliseconds_only_if_all_of_the_row_are() -> None:
    long, mixed = (
        row("put", {OURS: 2000.0, FLOOR: 1000.0}, aim=5000.0),
        row("put", {OURS: 2000.0, FLOOR: 999.0}),
    )

    assert readable(long).unit == "ms"
    assert readable(long).figures[OURS].p50 == 2.0
    assert readable(long).aim == 5.0
    assert readable(mixed) is mixed


def test_verdict_says_by_how_much_an_aim_is_missed() -> None:
    assert verdict(row("put", {OURS: 30.0}, aim=20.0)) == "MISSED 1.50x"
    assert verdict(row("put", {OURS: 20.0}, aim=20.0)) == "met"
    assert verdict(row("put", {OURS: 20.0})) == ""


def test_peer_is_ahead_only_beyond_the_noise_and_the_floor_is_no_peer() -> None:
    times = row("attach", {OURS: 100.0, FLOOR: 1.0, "posix_ipc": 50.0, "redis": 95.0})
    rates = row("rate", {OURS: 100.0, "posix_ipc": 300.0, "redis": 50.0}, more_is_better=True)

    assert page.ahead(times) == [("posix_ipc", 2.0)]
    assert page.ahead(rates) == [("posix_ipc", 3.0)]


def test_peer_is_ahead_of_both_roads_or_not_at_all() -> None:
    times = row("put", {OURS: 100.0, ARENA: 1.0, "iceoryx2": 2.0, "posix_ipc": 0.25})
    rates = row("rate", {OURS: 100.0, ARENA: 300.0, "redis": 200.0}, more_is_better=True)

    assert page.ahead(times) == [("posix_ipc", 4.0)]
    assert page.ahead(rates) == []


def test_dash_has_a_footnote_and_an_absent_peer_a_reason() -> None:
    notes = {"redis": "a value is at most 512 MiB"}

    text = page.peers_section(run(row("attach", {OURS: 5.0, FLOOR: 1.0, "posix_ipc": 2.0}, notes=notes)))

    assert "| - <sup>1</sup> |" in text
    assert "1. A value is at most 512 MiB." in text
    assert "pyzmq could not run: no wheel" in text
    assert "posix_ipc 2.50x" in text


def test_only_the_text_between_the_marks_is_replaced() -> None:
    begin, end = "<!-- floors: begin, written by make performance -->", "<!-- floors: end -->"

    assert page.generated("floors", "new", f"a {begin}\nold\n{end} b") == f"a {begin}\nnew\n{end} b"
    with pytest.raises(ValueError, match="the page has no"):
        page.generated("floors", "new", "no marks")


def test_memory_comes_last_in_the_tables() -> None:
    rows = [row("memory/value", {}), row("attach", {}), row("put", {})]

    assert [entry.key for entry in ordered(rows)] == ["attach", "put", "memory/value"]


def test_logarithmic_scale_spans_whole_powers_of_ten() -> None:
    scale = Scale([3.0, 400.0], 0, 300)

    assert scale.ticks == [1.0, 10.0, 100.0, 1000.0]
    assert [scale.at(value) for value in (1, 10, 1000)] == [0, 100, 300]
    assert scale.at(0) == 0


@pytest.mark.parametrize(("value", "text"), [(0.1, "100 ns"), (1, "1 us"), (1000, "1 ms"), (1e6, "1 s")])
def test_powers_of_ten_have_the_unit_that_people_use(value: float, text: str) -> None:
    assert duration(value) == text


def test_charts_are_well_formed_and_escape_their_texts() -> None:
    drawings = [
        bars("a < b & c", "us", [Bar("<ours>", 10, 90), Bar("zero", 0, 0)]),
        lines(
            "title",
            "size",
            [Line("<ours>", [(1, 5), (100, 50)]), Line("&", [(1, 5)], 3)],
            {1: "1", 100: "100"},
        ),
    ]

    for drawing in drawings:
        texts = [element.text for element in ElementTree.fromstring(drawing).iter()]
        assert "<ours>" in texts
    assert ">10 us</text>" in drawings[0]  # a figure has its unit


def test_charts_leave_out_what_was_not_measured() -> None:
    drawn = page.charts(
        run(row("attach/1048576", {OURS: 1.0, "redis": 2.0}), row("new/1048576", {OURS: 1.0}))
    )

    assert sorted(drawn) == ["attach.svg", "put-new.svg"]


def test_page_is_what_the_kept_runs_give(tmp_path: Path) -> None:
    copy = tmp_path / "performance.md"
    copy.write_text(page.PAGE.read_text("utf-8"), "utf-8")
    floors, peers = (read(page.FOLDER / name) for name in ("floors.json", "peers.json"))

    page.write(floors, peers, copy, tmp_path)

    assert copy.read_text("utf-8") == page.PAGE.read_text("utf-8")
    for drawing in page.FOLDER.glob("*.svg"):
        assert (tmp_path / drawing.name).read_text("utf-8") == drawing.read_text("utf-8")
