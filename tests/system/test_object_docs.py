"""The program that docs/objects.md speaks of; test_pages.py runs the examples in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_example_of_workers_has_arrays_at_the_same_addresses() -> None:
    command = [sys.executable, "-W", "error", ROOT / "examples" / "objects_and_workers.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "first: [0.0, 100000.0, 200000.0, 300000.0], at the same addresses: True\n"
