"""The texts of all errors, read off the source: each place that makes one, with its values as {names}."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import shmclient
import shmhost
import shmprotocol
from shmprotocol import errors

PACKAGES = (shmprotocol, shmclient, shmhost)
CLASSES = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.ShmError)
}
_HOLE = re.compile(r"\{[^{}]*\}")
Variables = dict[str, list[ast.expr]]
_LEAST = 5  # letters: a text with fewer of its own is one that another place has composed


class Text(NamedTuple):
    """A text of an error: the name of its class, the text, and where it is made."""

    kind: str
    template: str
    place: str

    def matches(self, message: str) -> bool:
        """Whether a message is this text with values in it."""
        parts = map(re.escape, _HOLE.split(self.template))
        return re.fullmatch(".*".join(parts), message, re.DOTALL) is not None


def texts() -> list[Text]:
    """Return the texts of all errors, sorted by class and text."""
    return sorted({text for path, name in _files() for text in _texts(path, name)})


def _files() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        folder = Path(str(package.__file__)).parent
        for path in sorted(folder.rglob("*.py")):
            yield path, str(path.relative_to(folder.parent))


def _texts(path: Path, name: str) -> Iterator[Text]:
    tree = ast.parse(path.read_text("utf-8"))
    module = _variables(tree.body)
    for scope in ast.walk(tree):
        if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            variables = module | _variables(ast.walk(scope))
            for call in ast.walk(scope):
                if isinstance(call, ast.Call) and call.args:
                    yield from _made(call, variables, name)


def _made(call: ast.Call, variables: Variables, place: str) -> Iterator[Text]:
    """Yield the texts of the errors that a call makes; nothing for other calls."""
    for kind in _kinds(call.func, variables):
        for template in _templates(call.args[0], variables):
            if sum(map(str.isalpha, _HOLE.sub("", template))) >= _LEAST:
                yield Text(kind, template, place)


def _kinds(node: ast.expr, variables: Variables) -> set[str]:
    """Return the names of the error classes that an expression can be."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in CLASSES:
            return {name}
        case ast.IfExp(body=first, orelse=second):
            return _kinds(first, variables) | _kinds(second, variables)
        case ast.Name(id=name) if name in variables:
            others = {key: values for key, values in variables.items() if key != name}
            return set().union(*(_kinds(value, others) for value in variables[name]))
    return set()


def _variables(nodes: Iterable[ast.AST]) -> Variables:
    """Return the expressions that are assigned to each variable."""
    values: Variables = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                for variable, value in _assigned(target, node.value):
                    values.setdefault(variable, []).append(value)
    return values


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values):
            for part in zip(targets, values, strict=False):
                yield from _assigned(*part)


def _templates(node: ast.expr, variables: Variables) -> list[str]:
    """Return the texts that an expression can be: its constants, with a {name} for each value."""
    match node:
        case ast.Constant(value=str(text)):
            return [text.replace("{", "(").replace("}", ")")]
        case ast.JoinedStr(values=parts):
            return ["".join(words) for words in product(*(_part(part, variables) for part in parts))]
        case ast.IfExp(body=first, orelse=second):
            return _templates(first, variables) + _templates(second, variables)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            ends = _templates(right, variables)
            return [start + end for start in _templates(left, variables) for end in ends]
        case ast.Dict(values=values):
            return [text for value in values for text in _templates(value, variables)]
        case ast.Subscript(value=ast.Name(id=name)) if name in variables:
            return [text for value in variables[name] for text in _templates(value, variables)]
        case ast.Name(id=name) if name in variables:
            others = {key: values for key, values in variables.items() if key != name}
            return [text for value in variables[name] for text in _templates(value, others)]
    return [_hole(node)]


def _part(part: ast.expr, variables: Variables) -> list[str]:
    """Return what a part of a formatted text can be: a value out of a table is one of its texts."""
    match part:
        case ast.FormattedValue(value=ast.Subscript() as value):
            return _templates(value, variables)
        case ast.FormattedValue(value=value):
            return [_hole(value)]
    return _templates(part, variables)


def _hole(node: ast.expr) -> str:
    """Return a short name for a value: the last word of its expression."""
    words = re.findall(r"[A-Za-z]\w*", ast.unparse(node))
    return f"{{{words[-1]}}}" if len(words) == 1 or isinstance(node, ast.Attribute) else "{...}"


def restructured() -> Iterator[str]:
    """Yield a list of texts for each class, line by line."""
    known = texts()
    for kind in sorted({text.kind for text in known}):
        templates = sorted({text.template for text in known if text.kind == kind})
        yield from ("", kind, "-" * len(kind), "", *(f"- {_quoted(text)}" for text in templates), "")


def _quoted(template: str) -> str:
    """Return a text as it is searched for: on one line, as code."""
    return f"``{' '.join(template.split()).replace('`', chr(39))}``"
