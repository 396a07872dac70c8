"""`make performance`: writes the tables and charts of docs/performance.md and docs/values.md from kept runs.

The pages are text around pairs of marks; what is between them is generated.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks import chart
from benchmarks.peers import registry
from benchmarks.processes import ROOT
from benchmarks.results import ARENA, FLOOR, OURS, Row, Run, read
from benchmarks.table import LONG_US, aims, number, ordered, readable, verdict

PAGE = ROOT / "docs" / "performance.md"
VALUES = ROOT / "docs" / "values.md"
FOLDER = ROOT / "docs" / "performance"
BAR_CHARTS = {
    "attach": ("attach/1048576", "Attach + detach, 1 MiB"),
    "again": ("again", "Get again, 1 MiB"),
    "notice": ("notice/watch", "Put of 1 KiB until a thread of another process has it"),
    "readers": ("spread/rate", "One writer, eight readers: generations of 1 MiB a second"),
}
SIZES = {1024.0: "1 KiB", 1048576.0: "1 MiB", 67108864.0: "64 MiB", 536870912.0: "512 MiB"}
AHEAD = 0.9  # a peer is ahead if it takes less than this part of our time; less is within the noise


def generated(name: str, text: str, page: str) -> str:
    """Replace what is between the marks of `name`; a page without them is a ValueError."""
    begin, end = f"<!-- {name}: begin, written by make performance -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin}")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


def machine_line(run: Run) -> str:
    """Say when and where a run took place."""
    about = run.machine
    return (
        f"Measured on {run.date}: {about['cpu']}, {about['cpus']} CPUs, {about['memory']} of memory, "
        f"Linux {about['kernel']}, Python {about['python']}, load {about['load']}."
    )


# How users know the roads of docs/values.md.
VALUE_ROADS = {
    "shmhost": "`put`, `get`",
    "arena": "an arena",
    "reference": "`put`, reference",
    "pipe": "pickle, pipe",
    "torch": "`torch.multiprocessing`",
    "ipc": "IPC file, `/dev/shm`",
    "joblib": "joblib memmap",
}


def values_section(run: Run) -> str:
    """Write a table of the roads of values for each kind."""
    libraries = {"torch": "torch", "ipc": "pyarrow", "joblib": "joblib"}
    versions = [f"{name} {run.versions[road]}" for road, name in libraries.items() if road in run.versions]
    parts = [f"{machine_line(run)[:-1]}, {', '.join(versions)}. The shortest of each row is bold."]
    kinds = dict.fromkeys(row.key.partition("/")[0] for row in run.rows)
    for kind in kinds:
        rows = [row for row in run.rows if row.key.startswith(f"{kind}/")]
        roads = [road for road in VALUE_ROADS if any(road in row.figures for row in rows)]
        header = [rows[0].title.partition(",")[0], *(VALUE_ROADS[road] for road in roads)]
        cells = [[row.title.partition(", ")[2], *(_time(row, road) for road in roads)] for row in rows]
        parts.append(_table(header, cells))
    parts += [f"- {VALUE_ROADS[road]} was not measured: {reason}." for road, reason in run.absent.items()]
    return "\n\n".join(parts)


def _time(row: Row, road: str) -> str:
    figure = row.figures[road]
    text = f"{number(figure.p50)} us" if figure.p50 < LONG_US else f"{number(figure.p50 / 1000)} ms"
    best = min(row.figures, key=lambda each: row.figures[each].p50)
    return f"**{text}**" if road == best else text


def floors_section(run: Run) -> str:
    """Write the table of ours against the floors."""
    header = ["", "", "ours", "p99", "floor", "ratio", "aim at most", ""]
    rows = []
    for row in map(readable, run.rows):
        ours, floor, ratio = row.figures[OURS], row.figures.get(FLOOR), row.ratio()
        floors = [number(floor.p50) if floor else "", number(ratio) if ratio is not None else ""]
        rows.append(
            [row.title, row.unit, number(ours.p50), number(ours.p99), *floors, aims(row), verdict(row)]
        )
    return f"{machine_line(run)}\n\n{_table(header, rows)}"


def peers_section(run: Run) -> str:
    """Write the table of all peers, with footnotes, where others are ahead, and the charts."""
    titles = {key: registry.load(key).title for key in run.versions}
    notes: list[str] = []
    rows = [
        [row.title, row.unit, *(_cell(row, key, notes) for key in titles)]
        for row in map(readable, ordered(run.rows))
    ]
    footnotes = [f"{index}. {note}" for index, note in enumerate(notes, 1)]
    absent = [f"{key} could not run: {reason}" for key, reason in run.absent.items()]
    parts = [
        machine_line(run) + " Each cell: median / 99th percentile.",
        _table(["", "", *titles.values()], rows),
        "\n".join([*absent, *footnotes]),
        _spreads(run, titles),
        "### Roads and versions",
        _roads(run),
        "### Where others are ahead",
        _ahead(run),
    ]
    return "\n\n".join(part for part in parts if part)


def _cell(row: Row, key: str, notes: list[str]) -> str:
    figure = row.figures.get(key)
    if figure is None:
        note = row.notes.get(key, "was not measured")
        note = note[:1].upper() + note[1:] + "."
        if note not in notes:
            notes.append(note)
        return f"- <sup>{notes.index(note) + 1}</sup>"
    text = number(figure.p50)
    if figure.samples >= 20:
        text += f" / {number(figure.p99)}"
    return f"**{text}**" if key in (OURS, ARENA) else text


def _spreads(run: Run, titles: dict[str, str]) -> str:
    """Write how far the medians of the rounds lie apart, folded away."""
    rows = [[row.title, *(_spread(row, key) for key in titles)] for row in ordered(run.rows)]
    table = _table(["", *titles.values()], rows)
    summary = "The spread of the rounds: from the lowest median to the highest, as a part of the median"
    return f"<details><summary>{summary}</summary>\n\n{table}\n\n</details>"


def _spread(row: Row, key: str) -> str:
    figure = row.figures.get(key)
    return f"{figure.spread:.0%}" if figure else "-"


def _roads(run: Run) -> str:
    lines = []
    for key, version in run.versions.items():
        peer = registry.load(key)
        lines.append(
            f"- **{peer.title}** {version}".rstrip() + f": {peer.road}. {' '.join(peer.more)}".rstrip()
        )
    return "\n".join(lines)


def ahead(row: Row) -> list[tuple[str, float]]:
    """Return the peers that are ahead of both roads of ours in a row, and by what factor, largest first."""
    medians = [row.figures[key].p50 for key in (OURS, ARENA) if key in row.figures]
    if not medians:
        return []
    ours = max(medians) if row.more_is_better else min(medians)
    factors = []
    for key, figure in row.figures.items():
        if key in (OURS, ARENA, FLOOR) or not (figure.p50 > 0 < ours):
            continue
        factor = figure.p50 / ours if row.more_is_better else ours / figure.p50
        if factor * AHEAD > 1:
            factors.append((key, factor))
    return sorted(factors, key=lambda entry: -entry[1])


def _ahead(run: Run) -> str:
    ahead_by = {row.title: ahead(row) for row in ordered(run.rows)}
    rows = [
        [title, ", ".join(f"{key} {number(factor)}x" for key, factor in by)]
        for title, by in ahead_by.items()
        if by
    ]
    return _table(["", "ahead of regions and arenas, and by what factor"], rows) if rows else "Nowhere."


def charts(run: Run) -> dict[str, str]:
    """Draw the charts of a run, by file name."""
    rows = {row.key: row for row in ordered(run.rows)}
    drawn = {
        f"{name}.svg": _bars(rows[key], title) for name, (key, title) in BAR_CHARTS.items() if key in rows
    }
    for name, title in (("replaced", "Put, replacing a value"), ("new", "Put, a new name")):
        if f"{name}/1048576" in rows:
            drawn[f"put-{name}.svg"] = _lines(rows, name, title, "size of the value", SIZES)
    if "server_cpu/16" in rows:
        clients = {1.0: "1", 16.0: "16", 128.0: "128", 1000.0: "1,000"}
        title = "CPU time of the server for an attach of 1 KiB"
        drawn["server-cpu.svg"] = _lines(rows, "server_cpu", title, "clients", clients)
    return drawn


def _bars(row: Row, title: str) -> str:
    colours = {OURS: chart.OURS_COLOUR, ARENA: chart.OURS_COLOUR, FLOOR: chart.FLOOR_COLOUR}
    figures = sorted(row.figures.items(), key=lambda entry: entry[1].p50 * (-1 if row.more_is_better else 1))
    bars = [
        chart.Bar(
            key,
            figure.p50,
            figure.p50 if row.more_is_better else figure.p99,
            colours.get(key, chart.OTHER_COLOUR),
        )
        for key, figure in figures
    ]
    what = "" if row.more_is_better else ": median, and a line to the 99th percentile"
    return chart.bars(title + what, row.unit, bars)


def _lines(rows: dict[str, Row], name: str, title: str, unit: str, ticks: dict[float, str]) -> str:
    measured = {at: rows[f"{name}/{at:.0f}"] for at in ticks if f"{name}/{at:.0f}" in rows}
    roads = dict.fromkeys(road for row in measured.values() for road in row.figures)
    styles = list(registry.MODULES)
    entries = [chart.Line(road, _points(road, measured), styles.index(road)) for road in roads]
    return chart.lines(title, unit, entries, {at: ticks[at] for at in measured})


def _points(road: str, rows: dict[float, Row]) -> list[tuple[float, float]]:
    return [(at, row.figures[road].p50) for at, row in rows.items() if road in row.figures]


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_values(run: Run, page: Path) -> None:
    """Write the generated part of the page about values."""
    page.write_text(generated("values", values_section(run), page.read_text("utf-8")), "utf-8")


def write(floors: Run | None, peers: Run | None, page: Path, folder: Path) -> None:
    """Write the generated parts of the page, and the charts."""
    text = page.read_text("utf-8")
    if floors is not None:
        text = generated("floors", floors_section(floors), text)
    if peers is not None:
        text = generated("peers", peers_section(peers), text)
        for name, drawing in charts(peers).items():
            (folder / name).write_text(drawing, "utf-8")
    page.write_text(text, "utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the page from docs/performance/*.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.page", description=__doc__)
    parser.add_argument("--floors", type=Path, default=FOLDER / "floors.json", help="a run of `make bench`")
    parser.add_argument(
        "--peers", type=Path, default=FOLDER / "peers.json", help="a run of `make bench-peers`"
    )
    parser.add_argument(
        "--values", type=Path, default=FOLDER / "values.json", help="a run of `python -m benchmarks.values`"
    )
    options = parser.parse_args(arguments)
    floors, peers = (read(path) if path.exists() else None for path in (options.floors, options.peers))
    write(floors, peers, PAGE, FOLDER)
    if options.values.exists():
        write_values(read(options.values), VALUES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
