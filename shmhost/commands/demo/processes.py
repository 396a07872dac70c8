"""The reader processes of the demo: started, heard, measured and ended. Prints nothing."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shmprotocol.errors import ShmError

_MAPPING = re.compile(r"^([0-9a-f]+)-[0-9a-f]+ \S+ \S+ (\S+ \d+)", re.MULTILINE)  # start, device and inode
WAIT_S = 10.0  # for a reader to answer: it takes two seconds, and the demo may take thirty


@dataclass(frozen=True, slots=True)
class Reader:
    """A process's own report, and the kernel's figures of its memory. Sizes are bytes."""

    who: str
    pid: int
    address: int
    lookups_per_s: float
    private: int  # its own memory, the region left out
    resident: int  # of the region: the pages that it has read
    share: int  # of the region: each of those pages, divided by the processes that have it (PSS)


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a reader until the block ends: EOF on its input ends it, SIGKILL if that or the block fails.

    It has a process group of its own, so that Ctrl-C reaches only this process, which then ends it.
    """
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        with _signals_put_off():  # a signal inside Popen() would leave a child behind
            child = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, env=environment, process_group=0
            )
            stack.enter_context(_ended(child))
        yield child


@contextlib.contextmanager
def _ended(child: subprocess.Popen[str]) -> Iterator[None]:
    with child:
        try:
            yield
            assert child.stdin is not None
            child.stdin.close()
            child.wait(WAIT_S)
        except BaseException:
            child.kill()
            raise


def report_of(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the report of a reader, one line; ShmError if it is missing, or misses words."""
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], WAIT_S)
    if not readable:
        raise ShmError(f"reader {child.pid} has not reported in {WAIT_S:g} s: is the machine very busy?")
    line = child.stdout.readline()
    if not line:
        raise ShmError(f"a reader ended early, with code {child.wait()}: see its output above")
    report: dict[str, Any] = json.loads(line)
    if report["missed"]:
        raise ShmError(f"a reader missed {report['missed']} words of the index: {report}")
    return report


def measure(who: str, report: Mapping[str, Any]) -> Reader:
    """Return the report of a process, with its memory; it must have mapped the region."""
    pid, address = report["pid"], report["address"]
    return Reader(who, pid, address, report["lookups_per_s"], *memory_of(pid, [address]))


def memory_of(pid: int, addresses: Sequence[int]) -> tuple[int, int, int]:
    """Ask the kernel (proc_pid_smaps(5)) for `private`, `resident` and `share` of a Reader, all regions
    at these addresses together, each in any number of mappings. ShmError: one of them is not mapped.
    """
    rollup = _sizes(Path(f"/proc/{pid}/smaps_rollup").read_text())
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    regions = [_sizes(part) for address in addresses for part in _mappings(smaps, address)]
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    private -= sum(region["Private_Clean"] + region["Private_Dirty"] for region in regions)
    return private, sum(region["Rss"] for region in regions), sum(region["Pss"] for region in regions)


def outcome_of_write(command: Sequence[str], environment: Mapping[str, str], address: int) -> str:
    """Have a reader write to the region, which it must report at an address. Return "" if the kernel ended
    it with SIGSEGV, or else a description of the outcome.
    """
    with _no_core_file(), running([*command, "--write"], environment, subprocess.PIPE) as child:
        output, errors = child.communicate(timeout=WAIT_S)
    mapped = output and json.loads(output)["address"] == address
    if mapped and child.returncode == -signal.SIGSEGV:
        return ""
    said = errors.strip()[-500:]
    return f"exit code {child.returncode}{'' if mapped else ', before it wrote'}{': ' if said else ''}{said}"


@contextlib.contextmanager
def ending_by_signal() -> Iterator[None]:
    """Have SIGINT and SIGTERM leave the block by an exception, so that all is cleaned up.

    Python loses an exception that a handler raises inside a destructor; the signal then takes effect at the
    end of the block. Outside of the main thread this does nothing.
    """
    arrived: list[int] = []

    def end(number: int, _: object) -> None:
        arrived.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    with _handled(end):
        yield
    if arrived:
        raise KeyboardInterrupt if arrived[0] == signal.SIGINT else SystemExit(128 + arrived[0])


@contextlib.contextmanager
def _signals_put_off() -> Iterator[None]:
    """Delay SIGINT and SIGTERM to the end of the block."""
    arrived: list[int] = []
    try:
        with _handled(lambda number, _: arrived.append(number)):
            yield
    finally:
        for number in arrived:
            signal.raise_signal(number)


@contextlib.contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM with a function while the block runs; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def _no_core_file() -> Iterator[None]:
    """Have processes that start in the block leave no core file: they are meant to crash."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def _mappings(smaps: str, address: int) -> list[str]:
    """Return the parts of smaps about all mappings of the object of which one starts at an address."""
    parts = _MAPPING.split(smaps)[1:]  # start, object, sizes; start, ...
    objects = dict(zip((int(start, 16) for start in parts[::3]), parts[1::3], strict=True))
    if address not in objects:
        raise ShmError(f"a reader reports {address:#x}, but has nothing mapped there")
    pairs = zip(parts[1::3], parts[2::3], strict=True)
    return [sizes for mapped, sizes in pairs if mapped == objects[address]]


def _sizes(text: str) -> dict[str, int]:
    """Return the sizes in a part of smaps, in bytes."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}
