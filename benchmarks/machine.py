"""Says what a run was measured on, and cleans up when the run is interrupted."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import signal
import sys
import time
from pathlib import Path

QUIET = 0.2  # of the time of all CPUs: what still works then disturbs nobody
LOOK_S = 0.02  # two ticks of the clock by which the kernel counts


def today() -> str:
    """Return the date and time, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def describe() -> dict[str, str]:
    """Return the processor, memory, kernel and Python of this machine."""
    return {
        "cpu": _processor(),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": f"{os.getloadavg()[0]:.1f} before the run",
    }


def version(distribution: str) -> str:
    """Return the version of an installed distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def end_on_sigterm() -> None:
    """Turn SIGTERM into SystemExit, so that `with` blocks end what they started, as on Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def cpus() -> tuple[int, int]:
    """Return the first and the last CPU that this process may use; on some machines they are the same."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def settle(within_s: float = 1.0) -> None:
    """Wait until the machine is quiet, at most so long: who was measured before may still free memory."""
    end = time.monotonic() + within_s
    busy = _busy_s()
    while time.monotonic() < end:
        began = time.monotonic()
        time.sleep(LOOK_S)
        before, busy = busy, _busy_s()
        if busy - before <= QUIET * (time.monotonic() - began):
            return


def _busy_s() -> float:
    """Return the seconds that all CPUs together have worked."""
    user, nice, system, _, _, *other = map(int, Path("/proc/stat").read_text("ascii").split()[1:9])
    return (user + nice + system + sum(other)) / os.sysconf("SC_CLK_TCK")


def raise_descriptor_limit() -> None:
    """Allow as many open files as the administrator does: a thousand clients have a socket each."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
