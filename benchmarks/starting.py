"""The rows of `make bench` for a start: the import of the client in a fresh process, and its connection."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

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
    with tempfile.TemporaryDirectory() as folder:
        pairs = [
            (_import_us("shmclient", folder), _import_us("_cffi_backend, msgpack", folder))
            for _ in range(IMPORTS + 1)
        ][1:]
    ours, floor = ([[pair[side] / 1000] for pair in pairs] for side in (0, 1))
    figures = {OURS: summary(ours), FLOOR: summary(floor)}
    return Row("import", "import shmclient", "ms", figures, aim=40.0)


def _import_us(modules: str, folder: str) -> float:
    """Import modules whose bytecode is in a folder, or goes there: never compiled again, whatever is set."""
    command = [sys.executable, "-c", TIMED.format(modules)]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = folder
    result = subprocess.run(command, check=True, capture_output=True, text=True, env=environ)
    return float(result.stdout) * 1e6


def connect(folder: str, cpu: int) -> Row:
    """Connect and close; the floor is a socket that connects to the same host, and says nothing."""
    with host(folder, cpu) as (path, _):
        ours: Call = lambda: shmclient.connect(path).close()  # noqa: E731
        figures = paired(ours, lambda: connected(path).close(), 10, 30)
    return Row(
        "connect", "connect + close", figures=dict(zip((OURS, FLOOR), figures, strict=True)), aim=300.0
    )
