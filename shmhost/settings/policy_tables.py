"""The tables of a policy file, with the lines of their keys, and what is wrong with these. Pure.

The parser of TOML tells no lines of what it has read, so they are looked for in the text: exactly, but for
tables inside of texts of several lines.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from shmprotocol.cli import parse_size
from shmprotocol.errors import InvalidArgument
from shmprotocol.tuples import NamedTuple

_HEADER = re.compile(r"\s*\[\[\s*[\"']?(\w+)[\"']?\s*\]\]")
_KEY = re.compile(r"\s*[\"']?(\w+)[\"']?\s*=")


class Problem(Exception):
    """A mistake in a line of the file."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Table(NamedTuple):
    """A table, with the lines of its header and of its keys. Each method raises Problem for a wrong value."""

    kind: str
    number: int
    values: Mapping[str, Any]
    line: int
    lines: Mapping[str, int]

    def words(self) -> str:
        """Return the words for the rule in refusals."""
        title = self.text("title")
        return f"the rule {title!r}" if title else f"rule {self.number} in [[{self.kind}]]"

    def problem(self, key: str, text: str) -> Problem:
        """Return a Problem with a key, or with the whole table."""
        return Problem(self.lines.get(key, self.line), text)

    def text(self, key: str) -> str:
        """Return a text, "" without one."""
        value = self.values.get(key, "")
        if isinstance(value, str):
            return value
        raise self.problem(key, f"{key} is a text in quotes, not {value!r:.40}")

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        raise self.problem(key, f"{key} is true or false, not {value!r:.40}")

    def number_of(self, key: str, default: int, *, is_size: bool = False) -> int:
        """Return a number of 0 or more; a size may be a text such as "4G"."""
        value = self.values.get(key, default)
        try:
            if is_size and isinstance(value, str):
                value = parse_size(value)
        except InvalidArgument as error:
            raise self.problem(key, f"{key}: {error}") from None
        if type(value) is int and value >= 0:
            return value
        what = 'a number of bytes or a text such as "4G"' if is_size else "a number, 0 or more"
        raise self.problem(key, f"{key} is {what}, not {value!r:.40}")

    def items(self, key: str, default: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Return the texts, and numbers, of a list."""
        values = self.values.get(key, list(default))
        if isinstance(values, list) and all(type(value) in (str, int) for value in values):
            return tuple(values)
        raise self.problem(key, f'{key} is a list such as ["one", "two"], not {values!r:.40}')

    def choices(self, key: str, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return the items of a list that are some of these words; without one, all of them."""
        items = self.items(key, words)
        if items and set(items) <= set(words):
            return items
        raise self.problem(key, f"{key} has some of {', '.join(words)}, not {list(items)!r:.60}")


def tables_of(text: str, keys: Mapping[str, tuple[str, ...]]) -> tuple[list[Table], list[Problem]]:
    """Return the tables of a text, and what is wrong with their names and those of their keys."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        match = re.search(r"at line (\d+)", str(error))
        return [], [Problem(int(match[1]) if match else 1, str(error))]
    tables: list[Table] = []
    problems: list[Problem] = []
    places = list(_places(text))
    for kind, values in content.items():
        if kind not in keys or not _is_list_of_tables(values):
            kinds = " and ".join(f"[[{name}]]" for name in keys)
            problems.append(Problem(_line_of(text, kind), f"{kind!r} is unknown: a policy has {kinds}"))
            continue
        lines = [entry for entry in places if entry[0] == kind]
        for number, table in enumerate(values, 1):
            _, line, key_lines = lines[number - 1] if number <= len(lines) else (kind, 1, {})
            tables.append(Table(kind, number, table, line, key_lines))
            for key in sorted(set(table) - set(keys[kind])):
                hint = f"{key!r} is unknown in [[{kind}]]: use {', '.join(keys[kind])}"
                problems.append(tables[-1].problem(key, hint))
    return tables, problems


def _is_list_of_tables(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(table, dict) for table in values)


def _places(text: str) -> Iterator[tuple[str, int, Mapping[str, int]]]:
    """Yield the kind of each table, the line of its header, and those of its keys."""
    keys: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            keys = {}
            yield header[1], number, keys
        elif key := _KEY.match(line):
            keys.setdefault(key[1], number)


def _line_of(text: str, name: str) -> int:
    """Return the line that begins with a name, as a key or in brackets."""
    pattern = re.compile(rf"[\s\[\"']*{re.escape(name)}\b")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)
