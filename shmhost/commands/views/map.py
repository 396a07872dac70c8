"""The picture of `map`: the windows of a host with their regions to scale, as text and as SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from rich.text import Text

from shmhost.commands.text import STATE_COLORS, format_size, printable
from shmhost.core.window import GUARD, span_size
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.messages import RegionInfo
from shmprotocol.wire.names import State

SVG_COLORS: dict[str, str] = {
    State.CURRENT: "#2e8b57",
    State.CREATING: "#d4a017",
    State.SPARE: "#9a9a9a",
    State.ABORTED: "#8e5a9b",
    State.SUPERSEDED: "#4a90a4",
    State.UNLINKED: "#b5443c",
}
SVG_WIDTH = 900
SVG_LETTER = 6.6  # pixels that a letter of 12 takes on average; the whole name is in the tooltip


class Block(NamedTuple):
    """A part of a window: a region with its guard, or free addresses (`info` is None)."""

    start: int
    size: int
    info: RegionInfo | None


def blocks(window: tuple[int, int], regions: Iterable[RegionInfo]) -> list[Block]:
    """Return the regions and gaps of a window in the order of their addresses, without the free end."""
    base, size = window
    result: list[Block] = []
    at = base
    for info in sorted(regions, key=lambda info: info.address):
        if not base <= info.address < base + size:
            continue
        if info.address > at:
            result.append(Block(at, info.address - at, None))
        at = info.address + span_size(max(info.capacity, info.arena.span))
        result.append(Block(info.address, at - info.address, info))
    return result


def map_lines(window: tuple[int, int], regions: Sequence[RegionInfo], width: int) -> list[Text]:
    """Return the picture of a window: a line for each region, with a bar to scale, in `width` columns."""
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
        line.append(f"{bar:<{room}}", style=STATE_COLORS.get(info.state, ""))
        line.append(f" gen {info.generation:<4} {info.state[:10]:<10} ")
        line.append(printable(info.name))
        line.truncate(width, overflow="ellipsis")
        lines.append(line)
    guard = f"guard gaps behind regions: {format_size(GUARD)} or more"
    lines.append(Text(f"{base + size:#x}  end of the window; {guard}", style="dim"))
    return lines


def map_svg(windows: Sequence[tuple[int, int]], regions: Sequence[RegionInfo]) -> str:
    """Return the picture as SVG: each region is a bar to scale, with its guard as a thin gap behind it."""
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
    extent = max(info.capacity, info.arena.span)
    gap = format_size(span_size(extent) - extent)
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
