"""The rows of `make bench` for a start: the import of the client in a fresh process, and its connection."""

from __future__ import annotations

import subprocess
import sys

import shmclient
from benchmarks.measure import Call, paired, summary
from benchmarks.processes import connected, host
from benchmarks.results import FLOOR, OURS, Row

IMPORTS = 15
TIMED = "import time\nbegan = time.process_time()\nimport {}\nprint(time.process_time() - began)"


def import_client() -> Row:
    """Import shmclient in a fresh interpreter; the floor is its two dependencies alone.

    CPU time, because the files are cached: no more passes on an idle machine, and a busy one does not count.
    """
    pairs = [(_import_us("shmclient"), _import_us("_cffi_backend, msgpack")) for _ in range(IMPORTS + 1)][1:]
    ours, floor = ([[pair[side] / 1000] for pair in pairs] for side in (0, 1))
    figures = {OURS: summary(ours), FLOOR: summary(floor)}
    return Row("import", "import shmclient", "ms", figures, aim=40.0)


def _import_us(modules: str) -> float:
    command = [sys.executable, "-c", TIMED.format(modules)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1e6


def connect(folder: str, cpu: int) -> Row:
    """Connect and close; the floor is a socket that connects to the same host, and says nothing."""
    with host(folder, cpu) as (path, _):
        ours: Call = lambda: shmclient.connect(path).close()  # noqa: E731
        figures = paired(ours, lambda: connected(path).close(), 10, 30)
    return Row(
        "connect", "connect + close", figures=dict(zip((OURS, FLOOR), figures, strict=True)), aim=300.0
    )
