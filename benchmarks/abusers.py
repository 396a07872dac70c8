"""Times of a bystander, beside each abuser: `python -m benchmarks.abusers` (`make abuse`), as root, two CPUs.

A bystander of one user attaches a region and lets it go, on the host's CPU. On the other CPU, in turn, nobody
is busy, a control that has nothing to do with the host, or an abuser of another user. A round is a moment of
each, so that a ratio is from one moment of the machine; what the control costs, the machine does, and not the
host: caches, memory, interrupts. The result is a table in markdown, for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import mmap
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import shmclient
from benchmarks.abuse.controls import does_nothing, works_elsewhere
from benchmarks.abuse.kinds import KINDS, NAMES, PUBLIC, Abuser
from benchmarks.measure import percentile
from shmprotocol.errors import ShmError

ABUSER, BYSTANDER = 65534, 1001  # uids
ROUNDS, ROUND_S = 12, 0.25
SETTLE_S = 0.2, 0.05, 0.05  # before nobody is busy: what an abuser left is tidied up; and before the others
PAUSE_S = 0.0003  # between requests: who asks without a pause meets a host that has just turned to it
PAYLOAD = 1 << 20
LIMIT = 2.0  # times the p99 without an abuser
CONFIDENCE = 0.95
_ACTIVE, _BEGUN, _DROPPED = range(3)  # bytes of the memory that an abuser shares with us
_STEPS = 8  # where it counts its steps
Flags = mmap.mmap


@dataclass
class Result:
    """Times of the bystander in microseconds, a list for each round; what failed; lines of the log."""

    name: str
    text: str
    quiet: list[list[float]] = field(default_factory=list)
    control: list[list[float]] = field(default_factory=list)
    abused: list[list[float]] = field(default_factory=list)
    failures: int = 0
    dropped: int = 0
    lines: int = 0
    steps: int = 0  # of the abuser, a second

    def ratios(self, percent: float, busy: list[list[float]]) -> list[float]:
        """Return how many times as long it takes beside somebody, in each round."""
        pairs = zip(self.quiet, busy, strict=True)
        return sorted(_of(other, percent) / _of(quiet, percent) for quiet, other in pairs)

    def row(self) -> str:
        """Return the row of a table."""
        times = [
            statistics.median(_of(samples, percent) for samples in side)
            for percent in (50, 99)
            for side in (self.quiet, self.abused)
        ]
        figures = " | ".join(f"{time_us:.0f}" for time_us in times)
        p99 = self.ratios(99, self.abused)
        over = " **over**" if statistics.median(p99) > LIMIT else ""
        return (
            f"| {self.text} | {figures} | {statistics.median(self.ratios(50, self.abused)):.2f} "
            f"| {spread(self.ratios(99, self.control))} | {spread(p99)}{over} "
            f"| {self.failures} | {self.steps} | {self.dropped} | {self.lines} |"
        )

    @property
    def is_good(self) -> bool:
        """Whether the bystander waited no longer than it may, and never in vain."""
        return statistics.median(self.ratios(99, self.abused)) <= LIMIT and not self.failures


def _of(samples: list[float], percent: float) -> float:
    return percentile(sorted(samples), percent)


def spread(ratios: list[float]) -> str:
    """Return the median of sorted ratios, and between which two of them that of all rounds is."""
    low = rank_below(len(ratios))
    return f"{statistics.median(ratios):.2f} ({ratios[low]:.2f}-{ratios[-1 - low]:.2f})"


def rank_below(count: int) -> int:
    """Return how many of so many samples may be left out at each end, for CONFIDENCE in the median.

    Each sample is above or below it with the same probability (order statistics, whatever the distribution).
    """
    below, chance = 0, 0.0
    for rank in range(count // 2):
        chance += math.comb(count, rank) / 2**count
        if 2 * chance > 1 - CONFIDENCE:
            break
        below = rank + 1
    return max(0, below - 1)


COLUMNS = (
    "abuser",
    "p50 without",
    "p50 with",
    "p99 without",
    "p99 with",
    "p50 x",
    "p99 x of the control",
    "p99 x",
    "failures",
    "steps/s",
    "dropped",
    "lines of log",
)


def prefer(priority: int) -> None:
    """Run before all else that this machine does, and before processes of a lower priority.

    The bystander's is the highest: it shares its CPU with the host, which would keep it waiting even after
    the reply.
    """
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))


@contextlib.contextmanager
def preferred(priority: int) -> Iterator[None]:
    """Prefer this process during the block.

    Not when it waits for the end of others: the kernel removes their entries of /proc then, and spins while
    one is in use by a process of a lower priority, which never gets the CPU.
    """
    prefer(priority)
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def become(uid: int, cpu: int) -> None:
    """Be another user from now on, on another CPU."""
    os.sched_setaffinity(0, {cpu})
    prefer(1)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def abuse(kind: Abuser, path: str, flags: Flags) -> None:
    """Abuse the host while the flag is set; begin again when dropped."""
    while True:
        if not flags[_ACTIVE]:
            flags[_BEGUN] = 0
            time.sleep(0.001)
            continue
        with contextlib.suppress(OSError, EOFError), contextlib.closing(kind(path)) as steps:
            for _ in steps:
                flags[_BEGUN] = 1
                _count(flags)
                if not flags[_ACTIVE]:
                    break
        if flags[_ACTIVE]:
            flags[_DROPPED] = min(flags[_DROPPED] + 1, 255)


def _count(flags: Flags) -> None:
    flags[_STEPS : _STEPS + 8] = (_steps(flags) + 1).to_bytes(8, "little")


def _steps(flags: Flags) -> int:
    return int.from_bytes(flags[_STEPS : _STEPS + 8], "little")


@contextlib.contextmanager
def child(function: Callable[[], None]) -> Iterator[int]:
    """Run a function in a forked child until the block ends."""
    pid = os.fork()
    if pid == 0:
        try:
            function()
        finally:
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def watch(result: Result, shm: shmclient.Client, seconds: float) -> list[float]:
    """Attach and let go for some time; now and then replace a value, which must not fail."""
    times: list[float] = []
    clock = time.perf_counter_ns
    ends_ns = clock() + int(seconds * 1e9)
    count = 0
    while (began_ns := clock()) < ends_ns:
        try:
            if count % 64 == 63:
                shm.put("own", b"x" * 100).close()
            else:
                shm.open("own region").close()
                times.append((clock() - began_ns) / 1000)
        except (ShmError, OSError):
            result.failures += 1
        count += 1
        time.sleep(PAUSE_S)
    return times


def wait_for(flags: Flags, value: int) -> None:
    """Wait until an abuser has begun, or ended; one that gets nowhere need not."""
    ends_s = time.monotonic() + 2.0
    while flags[_BEGUN] != value and time.monotonic() < ends_s:
        time.sleep(0.001)


def measure(kind: Abuser, path: str, log: Path, cpus: tuple[int, int], rounds: int, control: Flags) -> Result:
    """Measure one abuser, in rounds with nobody, with the control and with it."""
    result = Result(kind.__name__, (kind.__doc__ or "").rstrip("."))
    flags = mmap.mmap(-1, 4096)
    before = log.read_text().count("\n")

    def run() -> None:
        become(ABUSER, cpus[1])
        abuse(kind, path, flags)

    with child(run), preferred(2), shmclient.connect(path) as shm:
        for _ in range(rounds):
            for number, side in enumerate((result.quiet, result.control, result.abused)):
                control[_ACTIVE], flags[_ACTIVE] = number == 1, number == 2
                wait_for(control, control[_ACTIVE])
                wait_for(flags, flags[_ACTIVE])
                time.sleep(SETTLE_S[number])
                side.append(watch(result, shm, ROUND_S))
        flags[_ACTIVE] = 0
        wait_for(flags, 0)
    result.dropped = flags[_DROPPED]
    result.steps = round(_steps(flags) / (rounds * ROUND_S))
    result.lines = log.read_text().count("\n") - before
    return result


def bystander(kinds: list[Abuser], path: str, log: Path, cpus: tuple[int, int], rounds: int) -> bool:
    """Measure all and print the table; return whether each is within the limit."""
    control = mmap.mmap(-1, 4096)

    def run() -> None:
        become(ABUSER, cpus[1])
        abuse(works_elsewhere, path, control)

    with child(run), shmclient.connect(path) as shm:
        shm.put("own region", bytes(PAYLOAD)).close()
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        is_good = True
        for kind in kinds:
            result = measure(kind, path, log, cpus, rounds, control)
            print(result.row(), flush=True)
            is_good = is_good and result.is_good
    return is_good


@contextlib.contextmanager
def host(folder: Path, cpu: int) -> Iterator[tuple[str, Path]]:
    """Run a host that all users reach; give its socket and its log."""
    path, log = folder / "h.sock", folder / "log"
    command = [sys.executable, "-m", "shmhost", "serve", "--socket", str(path), "--socket-mode", "666"]
    with (
        open(log, "wb") as file,
        subprocess.Popen(
            ["taskset", "-c", str(cpu), "chrt", "-f", "1", *command, "--budget", "512M"], stderr=file
        ) as process,
    ):
        while not path.exists():
            time.sleep(0.01)
        try:
            yield str(path), log
        finally:
            process.terminate()


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", help="names of abusers, as in benchmarks/abuse/kinds.py")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    chosen = [kind for kind in (does_nothing, *KINDS) if not options.kinds or kind.__name__ in options.kinds]
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if os.geteuid() != 0 or len(cpus) < 2:
        raise SystemExit("this takes root, to become other users, and two CPUs")
    with tempfile.TemporaryDirectory(prefix="shm-abuse-") as name, host(Path(name), cpus[0]) as (path, log):
        os.chmod(name, 0o755)
        with shmclient.connect(path) as shm:
            for region in (PUBLIC, *NAMES):
                shm.put(region, b"for all", mode=0o644).close()
        os.sched_setaffinity(0, {cpus[0]})
        return 0 if bystander(chosen, path, log, (cpus[0], cpus[1]), options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
