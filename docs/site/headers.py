"""The C headers as reStructuredText: introductions, and structures and functions with their comments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from shmprotocol import abi

FOLDER = Path(abi.__file__).parent
# The headers that programs include come first.
FIRST = (
    "shm_abi.h",
    "shm_array.h",
    "shm_dict.h",
    "shm_create.h",
    "shm_snapshot.h",
    "shm_arrow.h",
    "shm_arena.h",
)
_COMMENT = r"(?:^/\*(?P<comment>(?:(?!\*/).)*)\*/\n)?"
_FUNCTION = re.compile(_COMMENT + r"^static inline (?P<text>[^;{}]*?\))\n\{", re.DOTALL | re.MULTILINE)
_STRUCT = re.compile(_COMMENT + r"^(?P<text>(?:struct|enum) \w+ \{\n.*?^\};)", re.DOTALL | re.MULTILINE)
_INTRODUCTION = re.compile(r"/\*\n \* (?P<name>shm_\w+\.h) - (?P<text>.*?)\*/", re.DOTALL)


class Part(NamedTuple):
    """A function or a structure: its text in C, its comment, and where it stands in the header."""

    text: str
    comment: list[str]
    is_function: bool
    offset: int


class Header(NamedTuple):
    """A header: its name, the lines of its introduction, and its parts in their order."""

    name: str
    introduction: list[str]
    parts: list[Part]


def headers() -> list[Header]:
    """Return the headers that are installed, those that programs include first."""
    others = (path.name for path in FOLDER.glob("shm_*.h"))
    return [_read(name) for name in (*FIRST, *sorted(set(others) - set(FIRST)))]


def restructured() -> Iterator[str]:
    """Yield the page on all headers, line by line."""
    for header in headers():
        yield from ("", header.name, "-" * len(header.name), "", *_prose(header.introduction), "")
        for part in _once(header.parts):
            yield from ("", *(_function(part) if part.is_function else _structure(part)), "")


def function_names(text: str) -> set[str]:
    """Return the names of all functions that a header defines, by another way than that of the page."""
    return set(re.findall(r"^static inline [^(]*?\b(shm_\w+)\(", text, re.MULTILINE))


def _once(parts: list[Part]) -> list[Part]:
    """Leave out functions that are there again, for other compilers or machines."""
    return [
        part for number, part in enumerate(parts) if part.text not in [other.text for other in parts[:number]]
    ]


def _read(name: str) -> Header:
    text = (FOLDER / name).read_text("utf-8")
    introduction = _INTRODUCTION.search(text)
    functions = [_part(match, is_function=True) for match in _FUNCTION.finditer(text)]
    structures = [_part(match, is_function=False) for match in _STRUCT.finditer(text)]
    parts = sorted(functions + structures, key=lambda part: part.offset)
    lines = _lines(introduction["text"][0].upper() + introduction["text"][1:]) if introduction else []
    return Header(name, lines, parts)


def _part(match: re.Match[str], *, is_function: bool) -> Part:
    return Part(match["text"], _lines(match["comment"] or ""), is_function, match.start("text"))


def _lines(comment: str) -> list[str]:
    """Return the lines of a comment without its stars."""
    lines = [re.sub(r"^ ?\* ?", "", line).rstrip() for line in comment.strip().splitlines()]
    return [line.lstrip() if number == 0 else line for number, line in enumerate(lines)]


def _function(part: Part) -> Iterator[str]:
    yield f".. c:function:: {' '.join(part.text.split())}"
    yield ""
    yield from (f"   {line}" for line in _prose(part.comment))


def _structure(part: Part) -> Iterator[str]:
    yield from _prose(part.comment)
    yield from ("", ".. code-block:: c", "")
    yield from (f"   {line}" for line in part.text.splitlines())


def _prose(lines: list[str]) -> Iterator[str]:
    """Yield the lines of a comment, with its indented blocks as code."""
    before = ""
    for line in lines:
        if line.startswith("    ") and not before.strip():
            yield from (".. code-block:: c", "")
        yield line if line.startswith("    ") else _escaped(line)
        before = line if line.strip() or before.startswith("    ") else ""


def _escaped(line: str) -> str:
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(
        f"`{part}`" if part.startswith("`") else re.sub(r"([\\*|_])", r"\\\1", part) for part in parts
    )
