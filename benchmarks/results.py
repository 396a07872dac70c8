"""A run as JSON: the machine, the versions, and rows of figures by road. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure

FORMAT = 1
OURS, FLOOR = "shmhost", "floor"
ARENA = "arena"  # our other road among the peers: values that their owner writes over


@dataclass(frozen=True)
class Row:
    """One workload: a figure for each road that can do it, a note for each that cannot.

    `aim_ratio` bounds ours by the floor of the same run, `aim` bounds it in the row's unit.
    """

    key: str
    title: str
    unit: str = "us"
    figures: Mapping[str, Figure] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    aim_ratio: float | None = None
    aim: float | None = None
    more_is_better: bool = False

    def ratio(self, road: str = OURS) -> float | None:
        """The median of a road by the floor's, if the row has both."""
        figure, floor = self.figures.get(road), self.figures.get(FLOOR)
        return figure.p50 / floor.p50 if figure and floor and floor.p50 else None

    @property
    def limit(self) -> float | None:
        """The largest median of ours that meets every aim of the row."""
        floor = self.figures.get(FLOOR)
        limits = [] if self.aim is None else [self.aim]
        if self.aim_ratio is not None and floor is not None:
            limits.append(self.aim_ratio * floor.p50)
        return min(limits, default=None)

    @property
    def is_missed(self) -> bool:
        """Whether ours is over an aim."""
        ours, limit = self.figures.get(OURS), self.limit
        return ours is not None and limit is not None and ours.p50 > limit


@dataclass(frozen=True)
class Run:
    """A run: when, where, of which versions, and the rows."""

    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    absent: Mapping[str, str] = field(default_factory=dict)  # the peers that could not run, and why
    rows: tuple[Row, ...] = ()

    def with_rows(self, *rows: Row) -> Run:
        return replace(self, rows=(*self.rows, *rows))


def dump(run: Run) -> str:
    """Write a run as JSON, rounded to what the clock can tell."""
    return json.dumps({"format": FORMAT, **_rounded(asdict(run))}, indent=1, ensure_ascii=False) + "\n"


def load(text: str) -> Run:
    """Read a run; another format is a ValueError."""
    document = json.loads(text)
    number = document.pop("format", None)
    if number != FORMAT:
        raise ValueError(f"format {number} is not {FORMAT}: measure again with this version")
    return Run(**(document | {"rows": tuple(_row(row) for row in document["rows"])}))


def read(path: Path) -> Run:
    """Read a run from a file."""
    return load(path.read_text("utf-8"))


def _row(document: dict[str, Any]) -> Row:
    figures = {road: Figure(**figure) for road, figure in document["figures"].items()}
    return Row(**(document | {"figures": figures}))


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {key: _rounded(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_rounded(entry) for entry in value]
        case _:
            return value
