"""Tables for the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rich import box
from rich.table import Table

from benchmarks.measure import Figure
from benchmarks.results import FLOOR, OURS, Row, Run

LONG_US = 1000.0  # rows whose figures all take longer are given in milliseconds

LATE = ("spread", "server_cpu", "memory")


def number(value: float) -> str:
    """Write a figure with three digits that mean something, and no exponent."""
    if value == 0:
        return "0"
    size = abs(value)
    for bound, digits in ((100, 0), (10, 1), (1, 2)):
        if size >= bound:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def readable(row: Row) -> Row:
    """Give a row of long times in milliseconds instead of microseconds."""
    figures = list(row.figures.values())
    if row.unit != "us" or not figures or min(figure.p50 for figure in figures) < LONG_US:
        return row
    in_ms = {road: _in_ms(figure) for road, figure in row.figures.items()}
    return replace(row, unit="ms", figures=in_ms, aim=None if row.aim is None else row.aim / 1000)


def _in_ms(figure: Figure) -> Figure:
    p50, p99, low, high = (value / 1000 for value in (figure.p50, figure.p99, figure.low, figure.high))
    return Figure(p50, p99, low, high, figure.samples)


def verdict(row: Row) -> str:
    """Say whether the row meets its aims, and by how much it misses."""
    limit = row.limit
    if limit is None or OURS not in row.figures:
        return ""
    return "met" if not row.is_missed else f"MISSED {number(row.figures[OURS].p50 / limit)}x"


def aims(row: Row) -> str:
    """Write the aims of a row: a ratio to the floor, a value, or both."""
    texts = [] if row.aim_ratio is None else [f"{row.aim_ratio:g}x"]
    texts += [] if row.aim is None else [f"{row.aim:g} {row.unit}"]
    return ", ".join(texts)


def floor_table(run: Run) -> Table:
    """Draw ours against the floors."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for column in ("", "ours", "p99", "spread", "floor", "ratio", "aim <=", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for row in map(readable, run.rows):
        table.add_row(*floor_cells(row), style="bold" if row.is_missed else None)
    return table


def floor_cells(row: Row) -> list[str]:
    """Return the cells of a row in the table of floors."""
    ours, floor, ratio = row.figures[OURS], row.figures.get(FLOOR), row.ratio()
    return [
        row.title,
        row.unit,
        number(ours.p50),
        number(ours.p99),
        f"{ours.spread:.0%}",
        number(floor.p50) if floor else "",
        number(ratio) if ratio is not None else "",
        aims(row),
        verdict(row),
    ]


def peer_keys(run: Run) -> list[str]:
    """Return the peers of a run, in its order."""
    return list(run.versions)


def peer_cell(row: Row, peer: str) -> str:
    """Write the median and the 99th percentile of a peer, or a dash."""
    figure = row.figures.get(peer)
    if figure is None:
        return "-"
    return number(figure.p50) if figure.samples < 20 else f"{number(figure.p50)} / {number(figure.p99)}"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Put the rows about single operations first; memory is measured first, while servers are fresh."""
    return sorted(rows, key=lambda row: row.key.startswith(LATE))


def peer_table(run: Run) -> Table:
    """Draw all peers, medians and 99th percentiles."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("p50 / p99")
    for column in ("", *peer_keys(run)):
        table.add_column(column, justify="right")
    for row in map(readable, ordered(run.rows)):
        table.add_row(row.title, row.unit, *(peer_cell(row, peer) for peer in peer_keys(run)))
    return table


def peer_notes(run: Run) -> list[str]:
    """Say why there are dashes, and which peers could not run."""
    notes: dict[tuple[str, str], list[str]] = {}
    for row in run.rows:
        for peer, note in row.notes.items():
            notes.setdefault((peer, note), []).append(row.title)
    lines = [f"- {peer} {note}: {'; '.join(titles)}" for (peer, note), titles in notes.items()]
    return lines + [f"- {peer} could not run: {reason}" for peer, reason in run.absent.items()]
