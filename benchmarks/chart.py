"""Draws bar and line charts as SVG, on logarithmic scales. Pure, and without a library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from benchmarks.table import number

FONT = 'font-family="system-ui, sans-serif" font-size="13"'
INK, GRID, PAPER = "#24292f", "#d8dee4", "#ffffff"
OURS_COLOUR, OTHER_COLOUR, FLOOR_COLOUR = "#0969da", "#9aa4af", "#57606a"
PALETTE = (
    *("#0969da", "#0550ae", "#57606a", "#bf3989", "#1a7f37"),
    *("#bc4c00", "#8250df", "#9a6700", "#cf222e", "#1b7c83"),
)
DASHES = ("", "2 2", "6 4", "", "", "", "", "3 3", "3 3", "3 3")
WIDTH, BAR, LEFT, RIGHT, TOP = 760, 26, 190, 90, 46


@dataclass(frozen=True)
class Bar:
    """A bar up to the median, and a thin line on to the 99th percentile; `colour` tells ours from others."""

    label: str
    value: float
    far: float
    colour: str = OTHER_COLOUR


@dataclass(frozen=True)
class Line:
    """A line through points (x, y); `style` is the same number for the same road in all charts."""

    label: str
    points: Sequence[tuple[float, float]]
    style: int = 0


class Scale:
    """A logarithmic scale from whole powers of ten to pixels."""

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self.low: float = math.floor(math.log10(min(positive)))
        self.high: float = max(math.ceil(math.log10(max(positive))), self.low + 1)
        self._first, self._last = first, last

    def at(self, value: float) -> float:
        """Return the pixel of a value; what is not positive lies at the low end."""
        exponent = math.log10(value) if value > 0 else self.low
        part = (max(exponent, self.low) - self.low) / (self.high - self.low or 1)
        return round(self._first + part * (self._last - self._first), 1)

    @property
    def ticks(self) -> list[float]:
        """The powers of ten, about eight at most."""
        low, high = math.ceil(self.low), math.floor(self.high)
        return [10.0**exponent for exponent in range(low, high + 1, max(1, math.ceil((high - low) / 8)))]


def duration(microseconds: float) -> str:
    """Write a power of ten of microseconds in the unit that people use for it."""
    for unit, size in (("s", 1e6), ("ms", 1e3), ("us", 1.0)):
        if microseconds >= size:
            return f"{microseconds / size:,.0f} {unit}"
    return f"{microseconds * 1e3:g} ns"


def bars(title: str, unit: str, entries: Sequence[Bar]) -> str:
    """Draw horizontal bars, in the order given."""
    height = TOP + BAR * len(entries) + 40
    bottom = TOP + BAR * len(entries)
    scale = Scale([value for bar in entries for value in (bar.value, bar.far)], LEFT, WIDTH - RIGHT)
    parts = [_text(12, 24, title, weight="600"), *_vertical_grid(scale, bottom, unit)]
    for index, bar in enumerate(entries):
        top, middle = TOP + BAR * index + 5, TOP + BAR * index + BAR / 2
        end = scale.at(bar.value)
        width = max(end - LEFT, 2)
        parts += [
            _text(
                LEFT - 8,
                middle + 4,
                bar.label,
                anchor="end",
                weight="600" if bar.colour != OTHER_COLOUR else "",
            ),
            f'<rect x="{LEFT}" y="{top}" width="{width:g}" height="{BAR - 10}" rx="2" fill="{bar.colour}"/>',
            f'<path d="M{end} {middle}H{scale.at(bar.far)}" stroke="{bar.colour}" stroke-width="2"/>',
            *_clear_text(max(scale.at(bar.far), end) + 6, middle + 4, f"{number(bar.value)} {unit}"),
        ]
    return _document(height, title, parts)


def lines(title: str, x_unit: str, entries: Sequence[Line], ticks: dict[float, str]) -> str:
    """Draw lines, in microseconds, over the positions of `ticks`, each with its name beside its end."""
    height, bottom, left, right = 420, 360, 90, 190
    across = Scale(list(ticks), left, WIDTH - right)
    across.low, across.high = math.log10(min(ticks)), math.log10(max(ticks))  # no room beside the data
    up = Scale([y for line in entries for _, y in line.points], bottom, TOP)
    parts = [_text(12, 24, title, weight="600")]
    for tick in up.ticks:
        y = up.at(tick)
        parts += [_rule(f"M{left} {y}H{WIDTH - right}"), _text(left - 8, y + 4, duration(tick), anchor="end")]
    for tick, label in ticks.items():
        x = across.at(tick)
        parts += [_rule(f"M{x} {TOP}V{bottom}"), _text(x, bottom + 20, label, anchor="middle")]
    parts.append(_text((left + WIDTH - right) / 2, bottom + 44, x_unit, anchor="middle"))
    levels = _spread([up.at(line.points[-1][1]) for line in entries])
    for line, level in zip(entries, levels, strict=True):
        parts += _line(line, across, up, level, right)
    return _document(height, title, parts)


def _line(line: Line, across: Scale, up: Scale, level: float, right: int) -> list[str]:
    colour, dash = PALETTE[line.style % len(PALETTE)], DASHES[line.style % len(DASHES)]
    points = [(across.at(x), up.at(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x} {y}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    end, edge = points[-1], WIDTH - right
    return [
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>',
        *(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points),
        f'<path d="M{end[0] + 4} {end[1]}L{edge + 14} {level}" stroke="{colour}" stroke-width="0.7"/>',
        _text(edge + 18, level + 4, line.label, colour=colour),
    ]


def _spread(heights: Sequence[float], gap: float = 17.0) -> list[float]:
    """Move labels apart, from the top down, and up again if they leave the chart at the bottom."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    levels = list(heights)
    for before, after in pairwise(order):
        levels[after] = max(levels[after], levels[before] + gap)
    overflow = max(levels, default=0) - 360
    if overflow > 0:
        limit = 360.0
        for index in reversed(order):
            levels[index] = min(levels[index], limit)
            limit = levels[index] - gap
    return [round(level, 1) for level in levels]


def _vertical_grid(scale: Scale, bottom: float, unit: str) -> list[str]:
    parts = []
    for tick in scale.ticks:
        x = scale.at(tick)
        parts += [_rule(f"M{x} {TOP}V{bottom}"), _text(x, bottom + 18, _tick(tick, unit), anchor="middle")]
    return parts


def _tick(value: float, unit: str) -> str:
    return duration(value) if unit == "us" else f"{value:,g} {unit}"


def _rule(path: str) -> str:
    return f'<path d="{path}" stroke="{GRID}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "", weight: str = "", colour: str = INK) -> str:
    anchors = f' text-anchor="{anchor}"' if anchor else ""
    weights = f' font-weight="{weight}"' if weight else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{anchors}{weights}>{escape(text)}</text>'


def _clear_text(x: float, y: float, text: str) -> list[str]:
    """Write over the lines of the grid, which would strike the text out. Not all know `paint-order`."""
    halo = f'stroke="{PAPER}" stroke-width="5" aria-hidden="true"'
    return [f'<text x="{x:g}" y="{y:g}" {halo}>{escape(text)}</text>', _text(x, y, text)]


def _document(height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" {FONT}>'
    paper = f'<rect width="{WIDTH}" height="{height:g}" fill="{PAPER}"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", paper, *parts, "</svg>", ""])
