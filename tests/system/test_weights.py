"""The program of docs/tensors.md, and its benchmark, at small sizes; test_pages.py runs the examples."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shmclient
from benchmarks import weights

ROOT = Path(__file__).parents[2]
SIZE = 40_000_000
BENCHMARK = "from benchmarks import weights; print(*weights.table(1_000_000, rounds=2), sep='\\n')"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what a program prints, which must be no warning."""
    result = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=280)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.timeout(300)
@pytest.mark.parametrize("is_file", [False, True], ids=["made", "a file"])
def test_four_workers_take_the_memory_of_one(tmp_path: Path, is_file: bool) -> None:
    argument = str(SIZE)
    if is_file:
        argument = str(tmp_path / "weights.safetensors")
        half = np.ones(SIZE // 8, "f4")
        shmclient.write_safetensors(argument, {"a": half, "b": half})
    lines = run("-W", "error", ROOT / "examples" / "weights_to_workers.py", argument).splitlines()
    assert re.fullmatch(r"40 MB were stored in [\d.]+ s", lines[0])
    assert re.fullmatch(r"the slowest of 4 workers had them in [\d.,]+ ms", lines[1])
    together = re.fullmatch(r"together they take (\d+) MB for them", lines[2])
    assert together is not None
    assert 38 <= int(together[1]) <= 60


def test_table_of_the_page_has_the_ways_of_the_benchmark() -> None:
    page = (ROOT / "docs" / "tensors.md").read_text("utf-8").partition("all four have it")[2]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")]
    assert rows == list(weights.TITLES.values())


@pytest.mark.timeout(300)
def test_benchmark_has_a_row_for_each_way() -> None:
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install {name}")
    lines = run("-c", BENCHMARK).splitlines()
    assert len(lines) == 8
    assert lines[2].startswith('| `put` of the file, `get(as_="torch")`: one region | ')
