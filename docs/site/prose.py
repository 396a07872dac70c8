"""Docstrings of this project as reStructuredText: they are prose with code in backticks. Knows no Sphinx."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_CODE = re.compile(r"(``?[^`]+``?)")


def restructured(lines: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText: blocks of code marked, known names as links."""
    known = re.compile(rf"(?<![\w.])({'|'.join(sorted(names, key=len, reverse=True))})(?!\w)")
    return [_marked(line, known) for line in _with_blocks(lines)]


def _with_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Mark each indented block that follows an empty line as code."""
    before, is_block = "", False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not before.strip() and not is_block:
            yield from ("::", "")
            is_block = True
        is_block = is_block and (indented or not line.strip())
        yield line
        before = line


def _marked(line: str, known: re.Pattern[str]) -> str:
    if line.startswith("    "):
        return line
    parts = _CODE.split(line)
    return "".join(part if part.startswith("`") else known.sub(r"`\1`", part) for part in parts)
