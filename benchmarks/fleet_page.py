"""The tables of docs/fleet.md, out of a run. Pure but for `write`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.fleet_peers import RAY, VINEYARD
from benchmarks.page import generated, machine_line
from benchmarks.results import FLOOR, OURS, Row, Run
from benchmarks.table import number, readable, verdict

HOW = {
    RAY: "`ray.put` on one node, `ray.get` by an actor of another",
    VINEYARD: "`put(persist=True)` on one daemon, `get(fetch=True)` on another, without compression",
}
TITLES = {RAY: "Ray", VINEYARD: "Vineyard"}


def section(run: Run) -> str:
    """Write the tables of the page."""
    parts = [machine_line(run), _trips(run), _streams(run), _others(run), "\n".join(_notes(run))]
    return "\n\n".join(part for part in parts if part)


def write(run: Run, page: Path) -> None:
    """Write the generated part of the page."""
    page.write_text(generated("fleet", section(run), page.read_text("utf-8")), "utf-8")


def _trips(run: Run) -> str:
    peers = [peer for peer in TITLES if peer in run.versions]
    columns = ["`put` here to `open` there", "ours", "plain TCP", "ratio", *(TITLES[peer] for peer in peers)]
    return _table(columns, (_trip(row, peers) for row in _rows(run, "trip")))


def _trip(row: Row, peers: Iterable[str]) -> list[str]:
    aim = f" (aim {row.aim_ratio:g}: {verdict(row)})" if row.aim_ratio else ""
    cells = [_cell(row, road) for road in (OURS, FLOOR)]
    return [row.title, *cells, f"{row.ratio() or 0:.2f}{aim}", *(_cell(row, peer) for peer in peers)]


def _streams(run: Run) -> str:
    """Write a row for each kind of value that changes at a pace; its CPU is in rows of its own."""
    cpu = {row.key: row for row in _rows(run, "each")}
    lines = []
    for row in _rows(run, "lag"):
        kind = row.key.partition("/")[2]
        sides = [cpu.get(f"each/{side}/{kind}") for side in ("exports", "imports")]
        used = [_cell(side) if side is not None else "" for side in sides]
        lines.append([row.title, _cell(row), _cell(row, p99=True), *used])
    columns = ["put here, `follow` there", "lag, median", "lag, p99", "CPU here, each", "CPU there, each"]
    return _table(columns, lines)


def _others(run: Run) -> str:
    lines = [
        [row.title, _cell(row), _cell(row, p99=True) if row.figures[OURS].samples >= 10 else ""]
        for kind in ("put", "cpu", "rest", "spread", "recovery")
        for row in _rows(run, kind)
    ]
    return _table(["", "median", "p99"], lines)


def _notes(run: Run) -> Iterator[str]:
    for peer, title in TITLES.items():
        if peer in run.versions:
            yield f"{title} {run.versions[peer]}: {HOW[peer]}."
    for key, reason in run.absent.items():
        yield f"{TITLES.get(key, key.title())} was not measured: {reason}."


def _rows(run: Run, kind: str) -> list[Row]:
    return [readable(row) for row in run.rows if row.key.partition("/")[0] == kind]


def _cell(row: Row, road: str = OURS, *, p99: bool = False) -> str:
    figure = row.figures.get(road)
    return f"{number(figure.p99 if p99 else figure.p50)} {row.unit}" if figure else ""


def _table(columns: list[str], lines: Iterable[list[str]]) -> str:
    """Write a table, or nothing if it has no lines. The first column is text, the others figures."""
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    head = [f"| {' | '.join(columns)} |", f"|---|{'--:|' * (len(columns) - 1)}"]
    return "\n".join([*head, *rows]) if rows else ""
