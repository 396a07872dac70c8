"""The program that docs/objects.md speaks of, and its table; test_pages.py runs the examples in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks import objects
from support import WatchedHost

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "objects.md").read_text(encoding="utf-8")


def test_example_of_workers_has_arrays_at_the_same_addresses() -> None:
    command = [sys.executable, "-W", "error", ROOT / "examples" / "objects_and_workers.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "first: [0.0, 100000.0, 200000.0, 300000.0], at the same addresses: True\n"


def test_ways_of_the_table_are_those_that_are_measured(host: WatchedHost, tmp_path: Path) -> None:
    """A worker reads the same from each."""
    import shmclient

    with shmclient.connect(host.socket_path) as shm, objects.started(host.socket_path) as pipe:
        ways = objects.trips(1024, shm, tmp_path)
        for message in ways.values():
            assert objects.measured(pipe, message, 1) > 0
        shm.unlink("new")
    assert re.findall(r"^\| ((?:a new object|the same again): .*?) \|", PAGE, re.MULTILINE) == list(ways)
