"""The reader processes of the demo: started, heard, measured and ended. Prints nothing."""

from __future__ import annotations

import contextlib
import json
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shmprotocol.errors import ShmError

WAIT_S = 10.0  # for a reader to answer: it takes two seconds, and the demo may take thirty


@dataclass(frozen=True, slots=True)
class Reader:
    """What a process reported, and what the kernel says of its memory. Sizes are bytes."""

    who: str
    pid: int
    address: int
    lookups_per_s: float
    private: int  # its own memory, the region left out
    resident: int  # of the region: the pages that it has read
    share: int  # of the region: each of those pages, divided by the processes that have it (PSS)


@contextlib.contextmanager
def running(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a reader until the block ends: the end of its input ends it, SIGKILL if that or the block fails.

    It has a process group of its own, so that Ctrl-C reaches this process alone, which ends it then.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=environment, process_group=0
    ) as child:
        try:
            yield child
            assert child.stdin is not None
            child.stdin.close()
            child.wait(WAIT_S)
        except BaseException:
            child.kill()
            raise


def report_of(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the line in which a reader reports what it found; ShmError when it is not as it should be."""
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], WAIT_S)
    if not readable:
        raise ShmError(f"reader {child.pid} has not reported in {WAIT_S:g} s: is the machine very busy?")
    line = child.stdout.readline()
    if not line:
        raise ShmError(f"a reader ended early, with code {child.wait()}: see what it says above")
    report: dict[str, Any] = json.loads(line)
    if report["missed"]:
        raise ShmError(f"a reader missed {report['missed']} words of the index: {report}")
    return report


def measure(who: str, report: Mapping[str, Any]) -> Reader:
    """Ask the kernel what memory a process has (proc_pid_smaps(5)); it must have mapped the region."""
    pid, address = report["pid"], report["address"]
    rollup = _sizes(Path(f"/proc/{pid}/smaps_rollup").read_text())
    region = _sizes(_mapping(Path(f"/proc/{pid}/smaps").read_text(), address))
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    private -= region["Private_Clean"] + region["Private_Dirty"]
    return Reader(who, pid, address, report["lookups_per_s"], private, region["Rss"], region["Pss"])


def outcome_of_write(command: Sequence[str], environment: Mapping[str, str], address: int) -> str:
    """Have a reader write to the region that it says it has at an address; return "" when the kernel
    ended it for that, or what happened instead.
    """
    with _no_core_file():
        child = subprocess.run(
            [*command, "--write"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
            process_group=0,
        )
    mapped = child.stdout and json.loads(child.stdout)["address"] == address
    if mapped and child.returncode == -signal.SIGSEGV:
        return ""
    code, said = child.returncode, child.stderr.decode(errors="replace").strip()
    return f"exit code {code}{'' if mapped else ', before it wrote'}{': ' if said else ''}{said[-500:]}"


@contextlib.contextmanager
def ending_by_sigterm() -> Iterator[None]:
    """Have SIGTERM leave the block as Ctrl-C does, so that all is cleaned up; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _no_core_file() -> Iterator[None]:
    """Start processes that leave no core file: these are meant to crash."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _mapping(smaps: str, address: int) -> str:
    """Return what smaps says of the mapping that starts at an address."""
    _, found, after = f"\n{smaps}".partition(f"\n{address:08x}-")
    if not found:
        raise ShmError(f"a reader reports {address:#x}, but has nothing mapped there")
    return after.partition("VmFlags:")[0]


def _sizes(text: str) -> dict[str, int]:
    """Return the sizes in a part of smaps, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}
