"""Runs the same trip with others, each by the Python of an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import Figure, summary
from benchmarks.processes import ROOT
from benchmarks.results import Run

RAY, VINEYARD = "ray", "vineyard"
SCRIPTS = {RAY: "fleet_ray.py", VINEYARD: "fleet_vineyard.py"}
LIMIT_S = 90.0


def answer_of(
    command: list[str], limit_s: float, *, cwd: str | Path, path: str = ""
) -> tuple[dict[str, Any], str]:
    """Run a command whose last line is JSON; return that, or nothing and why. `path` is its $PYTHONPATH."""
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, cwd=cwd, env=environment
        )
    except subprocess.TimeoutExpired:
        return {}, f"it took longer than {limit_s:g} s"
    except OSError as error:
        return {}, str(error)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return {}, (done.stderr.strip().splitlines() or ["it has said nothing"])[-1]
    return dict(json.loads(lines[-1])), ""


def trips(peer: str, python: str, sizes: list[int]) -> tuple[dict[int, Figure], str, str]:
    """Return what a peer takes by size, its version, and why there is nothing."""
    command = [python, str(ROOT / "benchmarks" / SCRIPTS[peer]), *map(str, sizes)]
    answer, reason = answer_of(command, LIMIT_S, cwd=tempfile.gettempdir())
    figures = {int(size): summary(rounds) for size, rounds in answer.get("us", {}).items()}
    return figures, answer.get("version", ""), reason


def with_peer(run: Run, peer: str, python: str, sizes: list[int]) -> Run:
    """Add what a peer takes, or why it is absent."""
    figures, version, reason = trips(peer, python, sizes)
    if reason:
        return replace(run, absent={**run.absent, peer: reason})
    keys = {f"trip/{size}": figure for size, figure in figures.items()}
    rows = tuple(
        replace(row, figures={**row.figures, peer: keys[row.key]}) if row.key in keys else row
        for row in run.rows
    )
    return replace(run, versions={**run.versions, peer: version}, rows=rows)
