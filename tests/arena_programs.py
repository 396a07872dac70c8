"""Programs in C that drive `shm_arena.h`: compiled as its users may, or with a line of it changed."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from native_support import ROOT, STRICT, WAYS

SOURCES = Path(__file__).parent / "arena"
HEADERS = ROOT / "shmprotocol" / "abi"
BUILDS: Mapping[str, Sequence[str]] = {
    **WAYS,
    "c11": ["cc", "-std=gnu11", "-O2"],  # the tests' programs themselves need more than C11
    "threads": ["cc", "-std=gnu11", "-O1", "-g", "-fsanitize=thread"],
    "sanitized": [*WAYS["sanitized"], "-std=gnu11"],
}
# Where the others may go on while a reader gets a value.
STEPS = {
    "shm_arena_read.h": [
        ('#include "shm_arena_ledger.h"\n', '#include "shm_arena_ledger.h"\nvoid arena_step(void);\n'),
        ("                if (fits)\n", "                arena_step();\n                if (fits)\n"),
        (
            "                again = __atomic_load_n(&entry->word",
            "                arena_step();\n                again = __atomic_load_n(&entry->word",
        ),
    ]
}
PROGRAMS = "SHMHOST_TEST_PROGRAMS"  # names the folder of the programs, which tests/conftest.py makes
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

Changes = Mapping[str, Sequence[tuple[str, str]]]


def changed_headers(folder: Path, *changes: Changes) -> Path:
    """Return a copy of the headers with some text replaced, which must be there."""
    copy = folder / "abi"
    shutil.copytree(HEADERS, copy)
    for change in changes:
        for name, pairs in change.items():
            text = (copy / name).read_text("utf-8")
            for before, after in pairs:
                assert text.count(before) == 1, f"{name} does not have once: {before}"
                text = text.replace(before, after)
            (copy / name).write_text(text, "utf-8")
    return copy


def compile_changed(name: str, folder: Path, *changes: Changes) -> Path:
    """Compile a program with changed headers; unused parts are no fault then."""
    headers = changed_headers(folder, *changes)
    program = folder / name
    options = ["-pthread", "-Wall", "-Werror", "-Wno-unused", f"-I{headers}"]
    subprocess.run([*BUILDS["c11"], *options, SOURCES / f"{name}.c", "-o", program], check=True)
    return program


@functools.cache
def compiled(name: str, build: str = "c11", folder: Path = SOURCES) -> Path:
    """Compile a program, once in a run of the tests, whichever worker needs it first."""
    program = Path(os.environ[PROGRAMS], f"{name}-{build}")
    with open(f"{program}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        if not program.exists():
            _compile(folder / f"{name}.c", build, program)
    return program


def _compile(source: Path, build: str, program: Path) -> None:
    part = f"{program}.part"  # what exists is whole
    result = subprocess.run(
        [*BUILDS[build], *STRICT, "-pthread", source, "-o", part],
        capture_output=True,
        text=True,
        check=False,
    )
    if build == "threads" and "libtsan" in result.stderr:
        pytest.skip("gcc has no libtsan")
    assert result.returncode == 0, result.stderr
    os.rename(part, program)


def run(program: Path, *arguments: object, timeout_s: float = 50) -> str:
    """Run a program to its good end; return what it printed."""
    result = attempt(program, *arguments, timeout_s=timeout_s)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def attempt(program: Path, *arguments: object, timeout_s: float = 50) -> subprocess.CompletedProcess[str]:
    """Run a program to any end."""
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=timeout_s
    )
