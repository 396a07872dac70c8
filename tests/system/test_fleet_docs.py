"""The example of docs/fleet.md is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PATTERN = r"<!-- example: (\S+) -->\n```python\n(.*?)```"
EXAMPLES = dict(re.findall(PATTERN, (DOCS / "fleet.md").read_text("utf-8"), re.DOTALL))


@pytest.mark.parametrize("name", ["fleet"])
def test_example_of_the_page_runs(name: str, tmp_path: Path) -> None:
    pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")
    (tmp_path / "example.py").write_text(EXAMPLES[name])
    command = [sys.executable, "-W", "error", tmp_path / "example.py"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (result.returncode, result.stderr) == (0, "")


def test_drawing_is_xml() -> None:
    assert ElementTree.parse(DOCS / "fleet.svg").getroot().tag.endswith("svg")
