"""Whether windows are free in other kinds of processes: starts one of each kind that this machine can start.

Programs in C reserve the windows, as a client does; the others print their mappings once their runtime is up.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from shmhost.commands.doctor.judge import NOTE, OK, PROBLEM, Finding, occupants
from shmhost.commands.doctor.languages import KINDS, Kind
from shmhost.commands.text import printable

FREE = "free"
TIMEOUT_S = 30.0  # a compiler on a busy machine takes seconds


class _NotTried(Exception):
    """The machine has no such processes; the text says why."""


def try_kinds(windows: Sequence[tuple[int, int]], kinds: Sequence[Kind] = KINDS) -> Iterator[Finding]:
    """Try the windows in a process of each kind, one after the other. Leaves nothing behind.

    It is a problem if the first window is not free, and a note if another one is not: those are for when the
    first is full.
    """
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="shmhost-doctor-") as folder:
            try:
                yield _judged(kind.name, windows, _outcomes(kind, windows, Path(folder)))
            except (OSError, ValueError, subprocess.SubprocessError, _NotTried) as error:
                yield Finding(kind.name, NOTE, printable(f"not tried: {error}"), "")


def _judged(name: str, windows: Sequence[tuple[int, int]], outcomes: Sequence[str]) -> Finding:
    if all(outcome == FREE for outcome in outcomes):
        return Finding(name, OK, "the window is free" if len(windows) == 1 else "all windows are free", "")
    parts = [f"{base:#x}: {printable(text)}" for (base, _), text in zip(windows, outcomes, strict=True)]
    state = NOTE if outcomes[0] == FREE else PROBLEM
    return Finding(name, state, "; ".join(parts), "try another window: --window BASE:SIZE")


def _outcomes(kind: Kind, windows: Sequence[tuple[int, int]], folder: Path) -> list[str]:
    """Return for each window FREE, or why it is not."""
    (folder / kind.source[0]).write_text(kind.source[1])
    for program in (command[0] for command in kind.commands):
        if not program.startswith("./") and shutil.which(program) is None:
            raise _NotTried(f"{program} is not installed")
    *builds, probe = kind.commands
    for build in builds:
        if (done := _run(build, folder)).returncode:
            raise _NotTried(f"it does not build: {_last_line(done.stderr)}")
    if not kind.reserves:
        done = _run(probe, folder)
        if done.returncode:
            raise _NotTried(f"it does not start: {_last_line(done.stderr)}")
        return [_outcome(done.stdout, *window) for window in windows]
    # A process for each window: some sanitizers end it at an address that they do not want.
    return [_reserved((*probe, f"{base:#x}", f"{size:#x}"), folder) for base, size in windows]


def _reserved(command: Sequence[str], folder: Path) -> str:
    """Return the word of a program that reserves a window, or how it ended without one."""
    try:
        done = _run(command, folder)
    except subprocess.TimeoutExpired:  # valgrind and qemu note something for each page of 4 TiB
        return f"not reserved after {TIMEOUT_S:.0f} s"
    return done.stdout.strip() or f"the process ends: {_last_line(done.stderr)}"


def _run(command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False
    )


def _outcome(maps: str, base: int, size: int) -> str:
    taken = occupants(maps, base, size)
    return f"taken: {taken[0]}" if taken else FREE


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return printable(lines[-1]) if lines else "it says nothing"
