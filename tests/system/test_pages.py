"""Every example in Python of the README and of the pages in `docs` is run as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- example: (?P<name>\S+) -->\n)?```python\n(?P<text>.*?)```\n(?:\n```\n(?P<output>.*?)```\n)?",
    re.DOTALL,
)
OTHERS = {"README.md: words.py", "docs/shared_memory.md: None"}  # run by test_readme.py and test_examples.py


class Example(NamedTuple):
    """A block of a page: its name, its text, and the output that the page shows, or nothing."""

    name: str
    text: str
    output: str | None


def examples() -> list[Example]:
    return [
        Example(f"{page.relative_to(ROOT)}: {match['name']}", match["text"], match["output"])
        for page in PAGES
        for match in BLOCK.finditer(page.read_text("utf-8"))
    ]


EXAMPLES = [example for example in examples() if example.name not in OTHERS]


def test_every_block_of_python_is_an_example() -> None:
    assert len(EXAMPLES) > 15
    assert {example.name for example in examples()} >= OTHERS
    assert [example.text[:80] for example in EXAMPLES if example.name.endswith(": None")] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_runs(example: Example, tmp_path: Path) -> None:
    for module in re.findall(r"^import (\w+)", example.text, re.MULTILINE):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"NOT TESTED: {example.name}, because there is no {module} here")
    (tmp_path / "example.py").write_text(example.text)
    program = [tmp_path / "example.py"]
    if "\ndef test_" in example.text:
        program = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *program]
    result = subprocess.run(
        [sys.executable, "-W", "error", *program],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "SHMHOST_SOCKET"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert example.output is None or result.stdout == example.output
