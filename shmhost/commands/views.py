"""What `ls`, `stat`, `who` and `map` show of a host, as tables and pictures. Prints nothing.

Asks nobody but /proc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.core.window import GUARD, span_size
from shmprotocol.wire.messages import Holder, Inspection, RegionInfo
from shmprotocol.wire.names import State

COLORS: dict[str, str] = {
    State.CURRENT: "green",
    State.CREATING: "yellow",
    State.ABORTED: "magenta",
    State.SUPERSEDED: "cyan",
    State.UNLINKED: "red",
}
SVG_COLORS: dict[str, str] = {
    State.CURRENT: "#2e8b57",
    State.CREATING: "#d4a017",
    State.ABORTED: "#8e5a9b",
    State.SUPERSEDED: "#4a90a4",
    State.UNLINKED: "#b5443c",
}
SVG_WIDTH = 900
SVG_LETTER = 6.6  # pixels that a letter of 12 takes on average; the whole name is in the tooltip
_NS = 10**9


def printable(text: str) -> str:
    """Return a text without what could move a cursor or turn a line round, as ESC and U+202E do."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def region_table(regions: Iterable[RegionInfo]) -> Table:
    """Return the table of `ls`: at most 80 columns."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "address", "size", "leases", "mode", "uid"):
        table.add_column(column, justify="right", no_wrap=True)
    for region in regions:
        table.add_row(
            Text(printable(region.name)),
            str(region.generation),
            f"{region.address:#x}",
            format_size(region.size),
            str(region.leases),
            f"{region.mode:04o}",
            str(region.uid),
        )
    return table


def stat_table(region: RegionInfo) -> Table:
    """Return the table of `stat`: what there is to know of a region."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    created = datetime.fromtimestamp(region.created_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    rows = {
        "name": region.name,
        "generation": f"{region.generation} (region {region.region}, {region.state})",
        "address": f"{region.address:#x}",
        "size": f"{region.size} bytes ({format_size(region.size)}), capacity {region.capacity} bytes",
        "access": f"mode {region.mode:04o}, uid {region.uid}, gid {region.gid}",
        "protection": f"seal {region.seal}, backend {region.backend}",
        "leases": str(region.leases),
        "created": f"{created} by pid {region.creator_pid}",
    }
    for key, value in rows.items():
        table.add_row(key, Text(printable(value)))
    return table


class Process(NamedTuple):
    """This machine's /proc entry of a process: empty if there is none, as for other namespaces."""

    name: str
    container: str


def process_of(pid: int, proc: Path = Path("/proc")) -> Process:
    """Return name and container of a process; the container is the first 12 digits of its id."""
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
        group = (proc / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return Process("", "")
    container = re.search(r"(?:docker|libpod|containerd|crio)[-/:]*([0-9a-f]{12})[0-9a-f]{52}", group)
    return Process(name, container[1] if container else "")


def age(since_ns: int, now_ns: int) -> str:
    """Return how long ago something was, in the unit that fits: `3 min`."""
    seconds = max(now_ns - since_ns, 0) // _NS
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def who_rows(inspections: Iterable[Inspection]) -> list[dict[str, object]]:
    """Return a row for each lease, as JSON has it; a region that nobody holds has one without a holder."""
    rows: list[dict[str, object]] = []
    for info, holders in inspections:
        region = {"name": info.name, "generation": info.generation, "state": info.state}
        rows += [region | _holder_row(holder) for holder in holders] or [region]
    return rows


def _holder_row(holder: Holder) -> dict[str, object]:
    process = process_of(holder.pid)
    row: dict[str, object] = {"uid": holder.uid, "gid": holder.gid, "pid": holder.pid}
    return row | {"process": process.name, "container": process.container, "since_ns": holder.since_ns}


def who_table(rows: Sequence[dict[str, object]], now_ns: int) -> Table:
    """Return the table of `who`: at most 80 columns."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "uid", "pid", "process", "container", "for"):
        table.add_column(
            column, justify="left" if column in ("process", "container") else "right", no_wrap=True
        )
    for row in rows:
        name = Text(printable(str(row["name"])), style="" if row["state"] == State.CURRENT else "dim")
        if row["state"] != State.CURRENT:
            name.append(f" ({row['state']})")
        if "uid" not in row:
            table.add_row(name, str(row["generation"]), "", "", "nobody", "", "")
            continue
        since = age(int(str(row["since_ns"])), now_ns)
        keys = ("generation", "uid", "pid", "process", "container")
        values = (Text(printable(str(row[key]))) for key in keys)  # a process chooses its name itself
        table.add_row(name, *values, since)
    return table


class Block(NamedTuple):
    """A part of a window: a region with its guard, or (`info` is None) addresses that are free."""

    start: int
    size: int
    info: RegionInfo | None


def blocks(window: tuple[int, int], regions: Iterable[RegionInfo]) -> list[Block]:
    """Return what follows what in a window, in the order of addresses, without the free end."""
    base, size = window
    result: list[Block] = []
    at = base
    for info in sorted(regions, key=lambda info: info.address):
        if not base <= info.address < base + size:
            continue
        if info.address > at:
            result.append(Block(at, info.address - at, None))
        at = info.address + span_size(info.capacity)
        result.append(Block(info.address, at - info.address, info))
    return result


def map_lines(window: tuple[int, int], regions: Sequence[RegionInfo], width: int) -> list[Text]:
    """Return a picture of a window: a line for each region, with a bar to scale; at most `width` columns."""
    base, size = window
    rows = blocks(window, regions)
    used = sum(block.size for block in rows if block.info is not None)
    lines = [
        Text(f"{base:#x}-{base + size:#x}  {format_size(size)}, {format_size(used)} taken", style="bold")
    ]
    largest = max((block.size for block in rows if block.info is not None), default=1)
    room = max(width - 62, 8)
    for block in rows:
        bar = "█" * max(round(room * block.size / largest), 1)
        if block.info is None:
            lines.append(Text(f"{block.start:#x} {format_size(block.size):>10}  free", style="dim"))
            continue
        info = block.info
        line = Text(f"{block.start:#x} {format_size(info.capacity):>10}  ")
        line.append(f"{bar:<{room}}", style=COLORS.get(info.state, ""))
        line.append(f" gen {info.generation:<4} {info.state[:10]:<10} ")
        line.append(printable(info.name))
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    guard = f"guard gaps behind regions: {format_size(GUARD)} or more"
    lines.append(Text(f"{base + size:#x}  end of the window; {guard}", style="dim"))
    return lines


def map_svg(windows: Sequence[tuple[int, int]], regions: Sequence[RegionInfo]) -> str:
    """Return the same as an SVG: each region a bar to scale, with its guard behind it as a thin gap."""
    rows: list[str] = []
    y = 30
    for window in windows:
        drawn = [block for block in blocks(window, regions) if block.info is not None]
        rows.append(_svg_text(20, y, f"window {window[0]:#x}, {format_size(window[1])}", bold=True))
        y += 14
        largest = max((block.size for block in drawn), default=1)
        for block in drawn:
            assert block.info is not None
            rows += _svg_row(y, block.info, block.size / largest)
            y += 24
        y += 30
    size = f'width="{SVG_WIDTH}" height="{y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    return "\n".join([head, f'<rect {size} fill="#ffffff"/>', *rows, "</svg>", ""])


def _svg_row(y: int, info: RegionInfo, scale: float) -> list[str]:
    width = max(380 * scale, 3)
    gap = format_size(span_size(info.capacity) - info.capacity)
    guard = f"{gap} behind it stay unmapped, at least {GUARD} bytes"
    color = SVG_COLORS.get(info.state, "#888888")
    facts = f" · gen {info.generation} · {info.state} · {format_size(info.capacity)}"
    room = max(int((SVG_WIDTH - 200 - width) / SVG_LETTER) - len(facts), 8)
    name = info.name if len(info.name) <= room else f"{info.name[: room - 1]}…"
    bar = f'<rect x="180" y="{y}" width="{width:.1f}" height="16" rx="2" fill="{color}">'
    return [
        _svg_text(20, y + 12, f"{info.address:#x}", mono=True),
        f"{bar}<title>{escape(f'{info.name}: {guard}')}</title></rect>",
        _svg_text(190 + width, y + 12, name + facts),
    ]


def _svg_text(x: float, y: int, text: str, *, bold: bool = False, mono: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    family = ' font-family="monospace"' if mono else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="12" fill="#222222"{weight}{family}>{escape(text)}</text>'


def format_size(size: int) -> str:
    """Return a number of bytes in the unit that fits it: `4.0 KiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{size} B"
