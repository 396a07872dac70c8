"""How long a fleet needs after a fault: run by `tests/fleet_recovery.py`, which has the network for that."""

from __future__ import annotations

import sys

from benchmarks.fleet_peers import answer_of
from benchmarks.measure import summary
from benchmarks.processes import ROOT
from benchmarks.results import OURS, Row

TITLES = {
    "cut": "From the end of a partition to a value of the other side",
    "killed": "From SIGKILL of one of two sources to the whole copy of 48 MiB",
}
CUTS, DEATHS = 3, 10  # a cut gives eight times
LIMIT_S = 240.0


def rows(cuts: int = CUTS, deaths: int = DEATHS) -> tuple[tuple[Row, ...], str]:
    """Return how long recovery takes, or why that cannot be measured here."""
    command = [sys.executable, "-m", "tests.fleet_recovery", str(cuts), str(deaths)]
    answer, reason = answer_of(command, LIMIT_S, cwd=ROOT, path=f"{ROOT}:{ROOT / 'tests'}")
    times = answer.get("us", {})
    return tuple(
        Row(f"recovery/{key}", TITLES[key], figures={OURS: summary([times[key]])}) for key in times
    ), reason
