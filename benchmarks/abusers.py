"""Times of a bystander, beside each abuser: `python -m benchmarks.abusers` (`make abuse`), as root, two CPUs.

A bystander of one user attaches a region and lets it go, on the host's CPU; an abuser of another user has the
other CPU, and is active in every second of the short rounds. So both halves of a ratio are from one run. The
result is a table in markdown, for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import shmclient
from benchmarks.abuse.kinds import KINDS, NAMES, PUBLIC, Abuser
from benchmarks.measure import percentile
from shmprotocol.errors import ShmError

ABUSER, BYSTANDER = 65534, 1001  # uids
ROUNDS, ROUND_S = 8, 0.25
SETTLE_S = 0.2, 0.05  # before a round without an abuser: what it left is tidied up; and with it
PAUSE_S = 0.0003  # between requests: who asks without a pause meets a host that has just turned to it
PAYLOAD = 1 << 20
LIMIT = 2.0  # times the p99 without an abuser
_ACTIVE, _BEGUN, _DROPPED = range(3)  # bytes of the memory that an abuser shares with us
_STEPS = 8  # where it counts its steps
Flags = mmap.mmap


@dataclass
class Result:
    """Times of the bystander in microseconds, without and with an abuser; what failed; lines of the log."""

    name: str
    text: str
    quiet: list[float] = field(default_factory=list)
    abused: list[float] = field(default_factory=list)
    failures: int = 0
    dropped: int = 0
    lines: int = 0
    steps: int = 0  # of the abuser, a second

    def ratio(self, percent: float) -> float:
        """Return how many times as long it takes with the abuser."""
        return percentile(sorted(self.abused), percent) / percentile(sorted(self.quiet), percent)

    def row(self) -> str:
        """Return the row of a table."""
        times = [percentile(sorted(samples), percent) for percent in (50, 99) for samples in self.sides]
        figures = " | ".join(f"{time_us:.0f}" for time_us in times)
        over = " **over**" if self.ratio(99) > LIMIT else ""
        return (
            f"| {self.text} | {figures} | {self.ratio(50):.2f} | {self.ratio(99):.2f}{over} "
            f"| {self.failures} | {self.steps} | {self.dropped} | {self.lines} |"
        )

    @property
    def sides(self) -> tuple[list[float], list[float]]:
        """Both lists of times."""
        return self.quiet, self.abused


COLUMNS = (
    "abuser",
    "p50 without",
    "p50 with",
    "p99 without",
    "p99 with",
    "p50 x",
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


def watch(result: Result, shm: shmclient.Client, times: list[float], seconds: float) -> None:
    """Attach and let go for some time; now and then replace a value, which must not fail."""
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


def wait_for(flags: Flags, value: int) -> None:
    """Wait until an abuser has begun, or ended; one that gets nowhere need not."""
    ends_s = time.monotonic() + 2.0
    while flags[_BEGUN] != value and time.monotonic() < ends_s:
        time.sleep(0.001)


def measure(kind: Abuser, path: str, log: Path, cpus: tuple[int, int], rounds: int) -> Result:
    """Measure one abuser, in rounds with and without it."""
    result = Result(kind.__name__, (kind.__doc__ or "").rstrip("."))
    flags = mmap.mmap(-1, 4096)
    before = log.read_text().count("\n")

    def run() -> None:
        become(ABUSER, cpus[1])
        abuse(kind, path, flags)

    with child(run), shmclient.connect(path) as shm:
        for _ in range(rounds):
            for active, times in enumerate(result.sides):
                flags[_ACTIVE] = active
                wait_for(flags, active)
                time.sleep(SETTLE_S[active])
                watch(result, shm, times, ROUND_S)
        flags[_ACTIVE] = 0
        wait_for(flags, 0)
    result.dropped = flags[_DROPPED]
    result.steps = round(_steps(flags) / (rounds * ROUND_S))
    result.lines = log.read_text().count("\n") - before
    return result


def bystander(kinds: list[Abuser], path: str, log: Path, cpus: tuple[int, int], rounds: int) -> bool:
    """Measure all and print the table; return whether each is within the limit."""
    with shmclient.connect(path) as shm:
        shm.put("own region", bytes(PAYLOAD)).close()
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        is_good = True
        for kind in kinds:
            result = measure(kind, path, log, cpus, rounds)
            print(result.row(), flush=True)
            is_good = is_good and result.ratio(99) <= LIMIT and not result.failures
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
    chosen = [kind for kind in KINDS if not options.kinds or kind.__name__ in options.kinds]
    cpus = sorted(os.sched_getaffinity(0))[:2]
    if os.geteuid() != 0 or len(cpus) < 2:
        raise SystemExit("this takes root, to become other users, and two CPUs")
    with tempfile.TemporaryDirectory(prefix="shm-abuse-") as name, host(Path(name), cpus[0]) as (path, log):
        os.chmod(name, 0o755)
        with shmclient.connect(path) as shm:
            for region in (PUBLIC, *NAMES):
                shm.put(region, b"for all", mode=0o644).close()
        os.sched_setaffinity(0, {cpus[0]})
        prefer(2)
        return 0 if bystander(chosen, path, log, (cpus[0], cpus[1]), options.rounds) else 1


if __name__ == "__main__":
    sys.exit(main())
