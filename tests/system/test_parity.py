"""Every behaviour of the two Go packages has a row in docs/parity.md, and each row a test that exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| [^|]+ \| (.+) \|$", TABLE, re.MULTILINE)
SHOWN_BY = [(row, tests) for row, tests in ROWS if not row.startswith(("row", "of the", "--"))]


@functools.cache
def functions(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")}


def test_every_behaviour_has_one_row() -> None:
    numbers = [row for row, _ in SHOWN_BY if re.fullmatch(r"[PF]\d+", row)]
    assert numbers == [f"P{number}" for number in range(1, 35)] + [f"F{number}" for number in range(1, 54)]


@pytest.mark.parametrize(("row", "tests"), SHOWN_BY, ids=[row for row, _ in SHOWN_BY])
def test_row_names_tests_that_exist(row: str, tests: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert len(named) == tests.count("`") / 2 > 0, f"{row}: {tests}"
    missing = [f"{path}::{name}" for path, name in named if name not in functions(ROOT / path)]
    assert missing == []
