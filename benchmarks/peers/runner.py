"""Runs workloads over all peers: rounds in turn, each beginning with another peer; knows neither."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.measure import summary
from benchmarks.peers import install
from benchmarks.peers.base import Absent, Site, Unsupported
from benchmarks.peers.registry import load
from benchmarks.peers.team import Failed, Team, team
from benchmarks.peers.workload import Scale, Workload
from benchmarks.results import Row, Run

Say = Callable[[str], None]
SINGLE = 1  # rounds of a workload that has no warm-up: what it measures happens once


@dataclass
class Attempt:
    """One workload of one peer: what was prepared, the samples of each round, or why there are none."""

    team: Team
    prepared: Any = None
    is_ready: bool = False
    rounds: list[list[float]] = field(default_factory=list)
    note: str = ""

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Turn what the peer cannot do, and its faults, into a note."""
        try:
            yield
        except Unsupported as reason:
            self.note = str(reason)
        except (Failed, OSError) as error:
            self.note = f"failed: {error}"

    def prepare(self, workload: Workload) -> None:
        with self.noting():
            self.prepared = workload.prepare(self.team)
            self.is_ready = True

    def measure(self, workload: Workload, keep: bool) -> None:
        with self.noting():
            samples = workload.measure(self.team, self.prepared)
            if keep:
                self.rounds.append(samples)

    def finish(self, workload: Workload) -> None:
        if self.is_ready:
            self.is_ready = False
            note = self.note
            with self.noting():
                workload.finish(self.team, self.prepared)
            self.note = note or self.note


def run_workload(workload: Workload, teams: Sequence[Team], scale: Scale) -> Row:
    """Measure a workload with all peers in turn."""
    attempts = [Attempt(team) for team in teams]
    rounds = min(workload.rounds or scale.rounds, scale.rounds)
    warm_up = rounds > SINGLE
    try:
        if not workload.each_round:
            for attempt in attempts:
                attempt.prepare(workload)
        for turn in range(rounds + warm_up):
            first = turn % len(attempts)
            for attempt in (*attempts[first:], *attempts[:first]):
                _round(attempt, workload, keep=turn >= warm_up)
    finally:
        for attempt in attempts:
            attempt.finish(workload)
    return _row(workload, attempts)


def _round(attempt: Attempt, workload: Workload, *, keep: bool) -> None:
    if attempt.note:
        return
    if workload.each_round:
        attempt.prepare(workload)
        machine.settle()
    if not attempt.note:
        attempt.measure(workload, keep)
    if workload.each_round:
        attempt.finish(workload)


def _row(workload: Workload, attempts: list[Attempt]) -> Row:
    figures = {
        attempt.team.peer.key: summary(attempt.rounds)
        for attempt in attempts
        if attempt.rounds and not attempt.note
    }
    notes = {attempt.team.peer.key: attempt.note for attempt in attempts if attempt.note}
    return Row(
        workload.key, workload.title, workload.unit, figures, notes, more_is_better=workload.more_is_better
    )


@contextmanager
def started(keys: Sequence[str], absent: dict[str, str], say: Say) -> Iterator[list[Team]]:
    """Start all peers; those that cannot run are named in `absent`, with the reason."""
    cpus = machine.cpus()
    with tempfile.TemporaryDirectory(prefix="shm-bench-") as folder, ExitStack() as stack:
        teams = []
        for key in keys:
            say(f"starting {key}")
            site = Site(folder, f"shmbench{os.getpid()}-{key}-", cpus[0])
            try:
                teams.append(stack.enter_context(team(load(key), site, cpus)))
            except (Absent, Failed) as reason:
                absent[key] = install.reasons().get(key, str(reason))
                say(f"{key} cannot run: {absent[key]}")
        yield teams


def run(keys: Sequence[str], workloads: Sequence[Workload], scale: Scale, say: Say) -> Run:
    """Start the peers, run all workloads, and return the figures."""
    date, about = machine.today(), machine.describe()
    absent: dict[str, str] = {}
    rows = []
    with started(keys, absent, say) as teams:
        versions = {team.peer.key: team.version for team in teams}
        for workload in workloads:
            say(workload.title)
            rows.append(run_workload(workload, teams, scale))
            for key, note in rows[-1].notes.items():
                if note.startswith("failed"):
                    say(f"  {key} {note}")
    return Run(date, about, versions, absent, tuple(rows))
