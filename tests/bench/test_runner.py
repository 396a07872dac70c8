"""The runner, with tiny sizes and the peers that need nothing installed; and what is left after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peers import runner
from benchmarks.peers.base import Session, Unsupported
from benchmarks.peers.registry import MODULES, load
from benchmarks.peers.steps import Ages, clock, stamped
from benchmarks.peers.workload import MIB, Scale
from benchmarks.peers.workloads import workloads
from benchmarks.processes import ROOT
from benchmarks.results import ARENA, FLOOR, OURS
from support import read_tasks

TINY = Scale(
    rounds=1,
    budget_s=0,
    samples=2,
    largest=MIB,
    objects=8,
    clients=(1, 3),
    attaches=6,
    notices=5,
    turns=2,
    readers=2,
)
HERE = [OURS, ARENA, FLOOR, "shared_memory"]


@pytest.mark.timeout(120)
def test_every_workload_runs_with_every_peer_that_is_here() -> None:
    said: list[str] = []

    run = runner.run(HERE, workloads(TINY), TINY, said.append)

    failures = [
        f"{row.key}: {key} {note}" for row in run.rows for key, note in row.notes.items() if "fail" in note
    ]
    assert failures == []
    assert list(run.versions) == HERE
    assert not run.absent
    assert [row.key for row in run.rows if not {OURS, ARENA} <= set(row.figures)] == []
    assert all(set(row.figures) | set(row.notes) == set(HERE) for row in run.rows)
    rows = {row.key: row for row in run.rows}
    assert rows["notice/watch"].notes["shared_memory"] == "has no notice of a new value"
    assert rows["attach/1048576"].figures[OURS].samples >= 1


def test_peer_that_cannot_run_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + ":/usr/bin")
    monkeypatch.setitem(sys.modules, "vineyard", None)

    run = runner.run(["shared_memory", "vineyard"], [], TINY, lambda _: None)

    assert "vineyard" in run.absent["vineyard"]
    assert list(run.versions) == ["shared_memory"]


def test_every_peer_is_described_without_being_installed() -> None:
    peers = [load(key) for key in MODULES]

    assert [peer.key for peer in peers] == list(MODULES)
    assert all(peer.title and peer.road for peer in peers)


def test_age_is_the_time_since_a_value_was_announced() -> None:
    ages = Ages(10)

    assert ages.add(stamped(clock(), False, b"rest"))
    assert 0 <= ages.us[0] < 1e6


def test_older_values_and_the_same_one_again_have_no_age() -> None:
    before = clock()
    ages = Ages(10)
    now = clock()

    for began in (before, 2**63, 7, now, now):
        assert ages.add(stamped(began, False))

    assert len(ages.us) == 1


def test_ages_end_with_the_last_value_or_when_there_are_enough() -> None:
    before = clock()
    many, single = Ages(10), Ages(1)

    assert many.add(stamped(before, True))  # of an earlier watch
    assert not many.add(stamped(clock(), True))
    assert not single.add(stamped(clock(), False))


def test_session_says_what_it_cannot_do() -> None:
    with pytest.raises(Unsupported, match="no notice"):
        Session().watch("name")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_an_interruption(number: int, tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "benchmarks.peers", "--only", "attach", "--peers", *HERE]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, process_group=0
    )
    assert child.stdout is not None
    while b"attach + detach" not in child.stdout.readline():
        assert child.poll() is None
    workers = _children(child.pid)

    child.send_signal(number)
    child.communicate(timeout=30)

    assert len(workers) >= 2 * len(HERE)
    assert [pid for pid in workers if os.path.exists(f"/proc/{pid}")] == []
    assert list(tmp_path.iterdir()) == []
    assert list(Path("/dev/shm").glob(f"shmbench{child.pid}*")) == []


def _children(pid: int) -> list[int]:
    return [int(child) for child in "".join(read_tasks(pid, "children")).split()]


def test_kept_runs_are_json() -> None:
    for path in (ROOT / "docs" / "performance").glob("*.json"):
        assert json.loads(path.read_text("utf-8"))["format"] == 1
