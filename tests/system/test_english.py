"""The house's English, as far as a machine can check it: phrases in prose, and names of local variables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROSE = {".py", ".pyi", ".md", ".c", ".h", ".service", ".socket", ".yaml", ".toml"}
PARTICIPLES = {"found", "one", "place", "made", "kept", "told", "known", "wanted"}
OWN = ("protocol", "shmclient", "shmhost", "benchmarks", "docker", "examples")
# "There is no host" counts, and "no longer" is an adverb: both are fine.
NOT_A = r"(?<!here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b)[a-z]+"
EXAMPLE = r", as [0-9']"  # "such as 660" gives an example; "as 660" compares
SUBJECT = r"(?:^\s*(?:\"\"\"|# |/\*|\* )?|\. )(?:Whoever|What|Who|One who|One that) [a-z]"
PHRASES = {
    "is no": re.compile(NOT_A),
    "as": re.compile(EXAMPLE),
    "to be had": re.compile(r"\bto be had\b|\band the like\b|\b(?:is|are) but [a-z]"),
}
SENTENCES = re.compile(SUBJECT, re.MULTILINE)


def files(*folders: str) -> list[Path]:
    """Return the files with prose in folders of the repository, but for the C source that cffi generates."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*")))
    return [path for path in paths if path.suffix in PROSE and path.name != "_native.c"]


def own() -> list[Path]:
    return [ROOT / "README.md", *files(*OWN, "docs", "packaging")]


def lines_with(pattern: re.Pattern[str], path: Path) -> list[str]:
    text = path.read_text("utf-8")
    return [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, m.start()) + 1}: {m[0]}"
        for m in pattern.finditer(text)
    ]


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrase_is_not_used(phrase: str) -> None:
    assert [line for path in own() for line in lines_with(PHRASES[phrase], path)] == []


def test_sentences_have_a_noun_as_their_subject() -> None:
    assert [line for path in own() for line in lines_with(SENTENCES, path)] == []


def test_local_variables_are_named_by_nouns() -> None:
    offences = []
    for path in files(*OWN, "tests"):
        if path.suffix != ".py":
            continue
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                offences += [
                    f"{path.relative_to(ROOT)}: {function.name}: {name}"
                    for name in bound_in(function) & PARTICIPLES
                ]
    assert offences == []


def bound_in(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    names = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return names | {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}


@pytest.mark.parametrize(
    ("text", "is_bad"),
    [
        ("x is no socket", True),
        ("there is no socket", False),
        ("it is no longer open", False),
    ],
)
def test_checks_tell_a_description_from_a_count(text: str, is_bad: bool) -> None:
    assert bool(PHRASES["is no"].search(text)) == is_bad
