"""Whether windows are free in other kinds of processes: starts one of each kind that this machine can start.

Programs in C reserve the windows, as a client does; the others print their mappings once their runtime is up.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shmhost.commands.doctor.judge import NOTE, OK, PROBLEM, Finding, occupants
from shmhost.commands.text import printable

FREE = "free"
TIMEOUT_S = 30.0  # a compiler on a busy machine takes seconds

_RESERVE = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int argc, char **argv)
{
        void *base = (void *)strtoull(argv[argc - 2], NULL, 0);
        /* A hint, as in shm_reserve() of the client: if the range is taken, the kernel maps elsewhere. */
        void *address = mmap(base, strtoull(argv[argc - 1], NULL, 0), PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        puts(address == base ? "free" : address == MAP_FAILED ? strerror(errno) : "not free");
        fflush(stdout);
        _exit(0);
}
"""
_GO = """
package main
import "os"
func main() { maps, _ := os.ReadFile("/proc/self/maps"); os.Stdout.Write(maps) }
"""
_JAVA = """
public class probe {
        public static void main(String[] arguments) throws Exception {
                System.out.write(java.nio.file.Files.readAllBytes(java.nio.file.Path.of("/proc/self/maps")));
                System.out.flush();
        }
}
"""
_RUST = """
fn main() {
    print!("{}", std::fs::read_to_string("/proc/self/maps").expect("/proc/self/maps"));
}
"""
_PYTHON = "import contextlib\n{}\nprint(open('/proc/self/maps').read())"
_NODE = "process.stdout.write(require('fs').readFileSync('/proc/self/maps'))"


class Kind(NamedTuple):
    """A kind of process: the commands that build it from its source, and run it. The last one is the probe.

    `reserves`: it takes a window, which it reserves, and prints how that went; others print their mappings.
    """

    name: str
    source: tuple[str, str]  # name of the file, and text
    commands: tuple[tuple[str, ...], ...]
    reserves: bool = False


def _native(name: str, compiler: str, *flags: str, under: tuple[str, ...] = ()) -> Kind:
    language = "c++" if compiler == "c++" else "c"
    build = (compiler, *flags, "-x", language, "probe.c", "-o", "probe")
    return Kind(name, ("probe.c", _RESERVE), (build, (*under, "./probe")), reserves=True)


def _python(name: str, *modules: str, program: str = sys.executable) -> Kind:
    text = _PYTHON.format("".join(f"import {module}\n" for module in modules))
    return Kind(name, ("probe.py", text), ((program, "probe.py"),))


def _go(name: str, *flags: str) -> Kind:
    return Kind(name, ("probe.go", _GO), (("go", "build", *flags, "-o", "probe", "probe.go"), ("./probe",)))


KINDS = (
    _python("Python"),
    _python("Python, NumPy", "numpy"),
    _python("Python, PyArrow", "pyarrow"),
    _python("Python, PyTorch", "torch"),
    *(
        _python(f"Python {version}", program=f"python{version}")
        for version in ("3.12", "3.13", "3.14", "3.14t")
    ),
    _native("C", "cc"),
    _native("C, static", "cc", "-static"),
    _native("C, not position-independent", "cc", "-no-pie"),
    _native("C++", "c++"),
    _native("C, AddressSanitizer", "cc", "-fsanitize=address"),
    _native("C, ThreadSanitizer", "cc", "-fsanitize=thread"),
    _native("C, UndefinedBehaviorSanitizer", "cc", "-fsanitize=undefined"),
    _native("C, LeakSanitizer", "cc", "-fsanitize=leak"),
    _native("C, MemorySanitizer", "clang", "-fsanitize=memory"),
    _native("C, valgrind", "cc", under=("valgrind", "-q")),
    _go("Go"),
    _go("Go, race detector", "-race"),
    Kind("Rust", ("probe.rs", _RUST), (("rustc", "-o", "probe", "probe.rs"), ("./probe",))),
    Kind("Java", ("probe.java", _JAVA), (("java", "probe.java"),)),
    Kind("Java, ZGC", ("probe.java", _JAVA), (("java", "-XX:+UseZGC", "probe.java"),)),
    Kind("Node.js", ("probe.js", _NODE), (("node", "probe.js"),)),
)


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
    except subprocess.TimeoutExpired:  # valgrind notes something for each of 4 TiB
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
