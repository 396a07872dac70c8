"""`shmhost demo live`: whole frames, readers that notice torn ones, and the screen as a user sees it."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import shmclient
import terminal
from native_support import ROOT, STRICT, WAYS
from shmhost.commands.demo import frames, live, reports
from support import WatchedHost, wait_until

COMMAND = [sys.executable, "-m", "shmhost", "demo", "live"]
WIDTH = 80

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def environment(**more: str) -> dict[str, str]:
    variables = {key: value for key, value in os.environ.items() if key != "SHMHOST_SOCKET"}
    return variables | {"COLUMNS": str(WIDTH)} | more


@needs_compiler
@pytest.mark.timeout(120)
def test_all_frames_are_whole_and_writers_are_stopped(tmp_path: Path) -> None:
    command = [*COMMAND, "--seconds", "1"]
    result = subprocess.run(
        command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    output = result.stdout
    assert (result.returncode, result.stderr) == (0, "")
    rows = re.findall(r"^ (owner|Python \d|C) +(\d+) +([\d,]+)", output, re.MULTILINE)
    assert [who for who, _, _ in rows] == ["owner", "Python 1", "Python 2", "C"]
    assert len({pid for _, pid, _ in rows}) == 4
    assert all(int(rate.replace(",", "")) > 0 for _, _, rate in rows)
    assert (output.count("✓"), output.count("NOT SO")) == (5, 0)
    assert "checked: none torn" in output
    assert "mmap EPERM, write EPERM, truncate EPERM" in output
    assert max(map(len, output.splitlines())) <= WIDTH
    assert list(tmp_path.iterdir()) == []  # no core file


@pytest.mark.timeout(120)
def test_demo_fails_when_the_owner_writes_wrong_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from shmhost.commands.demo import frames; frames.U64 >>= 40; frames.own()"
    whole = live._python

    def python(*task: str) -> list[str]:
        return [sys.executable, "-c", program] if task == ("own",) else whole(*task)

    monkeypatch.setattr(live, "_python", python)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    output = io.StringIO()
    code = live.live(0.3, Console(file=output, width=WIDTH))
    assert code == 1
    assert re.search(r"NOT SO: .* checked: \d+ torn", output.getvalue())
    assert "No C compiler" in output.getvalue()
    assert output.getvalue().count("SIGSEGV") == 1


def report_of_reader(command: list[str], host: WatchedHost) -> Mapping[str, Any]:
    """Start a reader and return its first report on frames; then end it by EOF."""
    variables = environment(SHMHOST_SOCKET=host.socket_path)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=variables, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        report: dict[str, Any] = {"values": 0}
        while not report["values"]:
            report = json.loads(child.stdout.readline())
        child.stdin.close()
        lines = child.stdout.read()
        assert child.wait(20) == 0
        return report | {"pids": {json.loads(line)["pid"] for line in lines.splitlines()} | {report["pid"]}}


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Compile frame_reader.c as strictly as users may, and return how to start each result."""
    folder = tmp_path_factory.mktemp("frames")
    start = [sys.executable, "-m", "shmclient", "exec", "--region", frames.ARENA, "--"]
    commands = {}
    for way, compiler in WAYS.items():
        program = folder / way
        subprocess.run([*compiler, *STRICT, ROOT / "examples" / "frame_reader.c", "-o", program], check=True)
        commands[way] = [*start, str(program), frames.ARENA, frames.NAME]
    return commands


@needs_compiler
@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("way", ["Python", *WAYS])
def test_reader_counts_the_frames_whose_sum_is_wrong(
    way: str, is_whole: bool, native: dict[str, list[str]], shm: shmclient.Client, host: WatchedHost
) -> None:
    words = np.arange(1000, dtype="u8") + np.uint64(2**63)
    words[1] = words[0] + words[2:].sum() + np.uint64(not is_whole)
    command = (native | {"Python": live.reader_commands(None)["Python 1"]})[way]
    with shm.arena(frames.ARENA, 1 << 20, names=16) as arena:
        arena[frames.NAME] = words
        report = report_of_reader(command, host) if way != "Python" else _while_written(arena, words, host)
    assert (report["values"] > 0, report["broken"]) == (True, 0 if is_whole else report["values"])
    assert report["pids"] == {report["pid"]}
    assert 0 <= report["p50_us"] <= report["p99_us"]


def _while_written(arena: shmclient.Arena, words: Any, host: WatchedHost) -> Mapping[str, Any]:
    """Return the report of the reader in Python, which looks at its input only after a frame."""
    from threading import Event, Thread

    is_over = Event()

    def write() -> None:
        while not is_over.wait(0.01):
            arena[frames.NAME] = words

    writer = Thread(target=write)
    writer.start()
    try:
        return report_of_reader(live.reader_commands(None)["Python 1"], host)
    finally:
        is_over.set()
        writer.join()


def child_printing(program: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("", "reader ended early, with code 0"),
        ("import sys; sys.exit(3)", "reader ended early, with code 3"),
        ("import time; time.sleep(60)", "no report within 0.2 s from reader"),
    ],
)
def test_process_that_does_not_report_is_an_error(program: str, message: str) -> None:
    with child_printing(program) as child:
        try:
            with pytest.raises(shmclient.ShmError, match=message):
                reports.Reports({"reader": child}).wait_for_all(0.2 if "sleep" in program else 30)
        finally:
            child.kill()


def test_reports_are_taken_in_whatever_pieces_they_come() -> None:
    line = json.dumps({"values": 6, "broken": 1, "seconds": 0.5, "p50_us": 3.0, "p99_us": 8.0})
    program = (
        f"import sys, time\nfor byte in {line + chr(10)!r} * 2:\n sys.stdout.write(byte); sys.stdout.flush()"
    )
    with child_printing(program + "\ntime.sleep(60)") as child:
        collected = reports.Reports({"reader": child})
        try:
            wait_until(lambda: collected.collect(0.01) or collected.streams[0].values == 12)
        finally:
            child.kill()
    (stream,) = collected.streams
    assert (stream.broken, stream.rate, stream.age_us("p99_us")) == (2, 12.0, 8.0)


@pytest.mark.timeout(120)
def test_screen_shows_figures_while_it_runs_and_claims_at_the_end() -> None:
    with terminal.opened(WIDTH, 24) as window:
        window.run_module("shmhost", "demo", "live", "--seconds", "3")
        running = window.until("s to go.")
        assert re.search(r"^ owner +\d+ +[\d,]+ ", running, re.MULTILINE)
        assert re.search(r"All together take \d+\.\d MiB", running)
        over = window.until("code=0")
        assert over.count("✓") == (5 if shutil.which("cc") else 4)
        assert "s to go." not in over
        assert over.count("process ") == 1  # the figures that ran are gone, and the last ones stay


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + 15)])
def test_live_demo_leaves_no_process_and_no_file_when_it_is_ended(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, "--seconds", "100"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=pipe,
        stderr=pipe,
        text=True,
        process_group=0,
    ) as child:
        wait_until(lambda: len(children(child.pid)) >= 3, 60)
        started = children(child.pid)
        os.killpg(child.pid, number)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == code
    assert "Traceback" not in errors
    assert [pid for pid in started if os.path.exists(f"/proc/{pid}")] == []
    assert list(tmp_path.iterdir()) == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
