"""The programs that the page on Arrow data speaks of; test_pages.py runs the example in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_workers_have_one_table_at_one_address() -> None:
    result = run(ROOT / "examples" / "arrow_tables.py")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "4 workers read 1000000 rows at 1 address\n"
