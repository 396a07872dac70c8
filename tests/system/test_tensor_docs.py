"""The examples of docs/tensors.md are run as they stand there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "tensors.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"<!-- example: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_of_the_page_runs(name: str, tmp_path: Path) -> None:
    if "import torch" in EXAMPLES[name] and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: pip install torch")
    (tmp_path / "example.py").write_text(EXAMPLES[name])
    command = [sys.executable, "-W", "error", tmp_path / "example.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
