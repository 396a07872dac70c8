"""`shmhost doctor --processes`: windows in processes of other kinds, which are really started."""

from __future__ import annotations

import json
import mmap
import re
import shutil
import sys
from pathlib import Path

import pytest

from command_support import call
from shmhost.commands.doctor import kinds
from shmhost.commands.doctor.judge import NOTE, OK, PROBLEM, Finding
from shmhost.commands.doctor.kinds import Kind, try_kinds

WINDOWS = ((0x550000000000, 256 << 30), (0x510000000000, 4 << 40))
NATIVE = next(kind for kind in kinds.KINDS if kind.name == "C")
PYTHON = next(kind for kind in kinds.KINDS if kind.name == "Python")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def tried(*some: Kind, windows: tuple[tuple[int, int], ...] = WINDOWS) -> list[Finding]:
    return list(try_kinds(windows, some))


@needs_compiler
def test_windows_are_free_in_python_and_in_c() -> None:
    findings = tried(PYTHON, NATIVE)
    assert findings == [Finding(name, OK, "all windows are free", "") for name in ("Python", "C")]


@needs_compiler
def test_first_window_that_is_taken_is_a_problem_and_another_one_a_note() -> None:
    """Page 0 is nobody's, and what lies above 47 bits is not there."""
    outside = (1 << 60, mmap.PAGESIZE)
    (first,) = tried(NATIVE, windows=(outside, *WINDOWS))
    (second,) = tried(NATIVE, windows=(WINDOWS[0], outside))
    assert (first.state, second.state) == (PROBLEM, NOTE)
    assert "0x1000000000000000: not free" in first.found
    assert "0x550000000000: free" in second.found
    assert "--window" in second.advice


def test_mapping_in_a_window_is_named() -> None:
    program = (
        "import ctypes, mmap\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p] + [ctypes.c_long] * 5\n"
        f"assert libc.mmap({WINDOWS[0][0] + 4096}, 4096, 1, 0x100022, -1, 0) == {WINDOWS[0][0] + 4096}\n"
        "print(open('/proc/self/maps').read())"
    )
    kind = Kind("Python with a guest", ("probe.py", program), ((sys.executable, "probe.py"),))
    (finding,) = tried(kind)
    assert finding.state == PROBLEM
    assert "taken: anonymous memory" in finding.found
    assert "0x510000000000: free" in finding.found


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Kind("x", ("x", ""), (("no-such-compiler",), ("./probe",))), "no-such-compiler is not installed"),
        (Kind("x", ("x", ""), ((sys.executable, "-c", "exit('a fault')"), ("./x",))), "not build: a fault"),
        (Kind("x", ("x", ""), ((sys.executable, "-c", "exit('no module')"),)), "not start: no module"),
        (Kind("x", ("x", ""), ((sys.executable, "-c", ""),)), "not a mapping"),
        (Kind("x", ("x", ""), (("./x",),)), "Permission denied"),
    ],
)
def test_kind_that_cannot_be_tried_is_a_note(kind: Kind, reason: str) -> None:
    (finding,) = tried(kind)
    assert (finding.state, finding.topic) == (NOTE, "x")
    assert reason in finding.found


def test_process_that_ends_at_a_window_is_told_with_its_last_word() -> None:
    program = "import sys; sys.exit('FATAL: unexpected\\x1b[2J memory mapping')"
    kind = Kind("x", ("x", ""), ((sys.executable, "-c", program),), reserves=True)
    (finding,) = tried(kind)
    assert finding.state == PROBLEM
    assert "the process ends: FATAL: unexpected\ufffd[2J memory mapping" in finding.found


def test_command_has_a_line_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.try_kinds, "__defaults__", ((PYTHON,),))
    result = call("shmhost", "doctor", "--processes", environ={})
    assert (result.returncode, result.stderr) == (0, "")
    assert "Python" in result.stdout
    (row,) = json.loads(call("shmhost", "doctor", "--processes", "--json", environ={}).stdout)
    assert (row["topic"], row["state"]) == ("Python", OK)


def test_page_on_addresses_has_what_was_run() -> None:
    """Of those that are free the names, and of the others what `doctor` prints."""
    page = (Path(__file__).parents[2] / "docs" / "addresses.md").read_text("utf-8")
    (table,) = re.findall(r"^\| \| free in \|\n\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    free = [name for row in table.splitlines() for name in row.split("|")[2].strip().split("; ")]
    others = re.findall(r"^ (?:note|problem) +(\S+(?: \S+)*)  ", page, re.MULTILINE)
    assert len(free) > 60
    assert len({*free, *others}) == len(free) + len(others)
    assert {*free, *others} <= {kind.name for kind in kinds.KINDS}


def test_kinds_have_a_name_each() -> None:
    names = [kind.name for kind in kinds.KINDS]
    assert len(names) == len(set(names))
