"""`python -m benchmarks.compare OLD.json NEW.json`: flags what has become slower, by ratio to the floor.

Absolute times differ between machines and days; the floor of the same run differs with them. Rows without a
floor are compared as they are, with a wider tolerance. A row is flagged only beyond the spread of its rounds.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import OURS, Row, Run, read

TOLERANCE = 1.15  # medians of paired rounds on one machine stay within some 10% from run to run
ABSOLUTE_TOLERANCE = 1.5  # without a floor, the speed of the machine counts too


@dataclass(frozen=True)
class Change:
    """A row in both runs: how much slower ours became, and how much is tolerated."""

    title: str
    old: float
    new: float
    by_floor: bool
    slower: float
    tolerance: float
    is_beyond_spread: bool  # the rounds of the two runs do not overlap

    @property
    def is_flagged(self) -> bool:
        return self.slower > self.tolerance and self.is_beyond_spread


def compare(old: Run, new: Run, tolerance: float = TOLERANCE) -> tuple[list[Change], list[str]]:
    """Return the changes of all rows that both have, and the titles of those that only the old one has."""
    rows = {row.key: row for row in new.rows if OURS in row.figures}
    earlier = [row for row in old.rows if OURS in row.figures]
    changes = [change(row, rows[row.key], tolerance) for row in earlier if row.key in rows]
    return changes, [row.title for row in earlier if row.key not in rows]


def change(old: Row, new: Row, tolerance: float = TOLERANCE) -> Change:
    """Compare one row of two runs."""
    before, after = old.ratio(), new.ratio()
    by_floor = before is not None and after is not None
    if before is None or after is None:
        before, after = old.figures[OURS].p50, new.figures[OURS].p50
        tolerance = max(tolerance, ABSOLUTE_TOLERANCE)
    slower = before / max(after, 1e-9) if new.more_is_better else after / max(before, 1e-9)
    return Change(new.title, before, after, by_floor, slower, tolerance, _is_apart(old, new, slower))


def _is_apart(old: Row, new: Row, slower: float) -> bool:
    """Whether ours became slower by more than its rounds differ, in both runs together."""
    before, after = old.figures[OURS], new.figures[OURS]
    if new.more_is_better:
        return slower > _part(before.p50, before.low) * _part(after.high, after.p50)
    return slower > _part(before.high, before.p50) * _part(after.p50, after.low)


def _part(larger: float, smaller: float) -> float:
    return larger / smaller if smaller > 0 else 1.0


def report(changes: list[Change], lost: list[str]) -> str:
    """Say a line for each row, those that are flagged first."""
    lines = [_line(change) for change in sorted(changes, key=lambda change: -change.slower)]
    lines += [f"MISSING   {title}: measured before, not now" for title in lost]
    flagged = sum(change.is_flagged for change in changes)
    verdict = f"{flagged} of {len(changes)} rows are slower than tolerated"
    return "\n".join([*lines, verdict + (f", {len(lost)} are missing" if lost else "")])


def _line(change: Change) -> str:
    mark = "SLOWER" if change.is_flagged else "faster" if change.slower < 1 / change.tolerance else "same"
    unit = "x the floor" if change.by_floor else "(no floor: plain values)"
    return f"{mark:8}{change.slower:6.2f}x  {change.title}: {change.old:.3g} -> {change.new:.3g} {unit}"


def main(arguments: list[str] | None = None) -> int:
    """Print the comparison; return 1 if a row is slower or missing, 2 if the runs cannot be compared."""
    parser = argparse.ArgumentParser(prog="benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of ratios to the floor: 1.15")
    options = parser.parse_args(arguments)
    try:
        changes, lost = compare(read(options.old), read(options.new), options.tolerance)
    except (OSError, ValueError) as error:
        print(f"cannot compare: {error}", file=sys.stderr)
        return 2
    print(report(changes, lost))
    return int(bool(lost) or any(change.is_flagged for change in changes))


if __name__ == "__main__":
    sys.exit(main())
