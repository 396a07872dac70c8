"""The commands, as pages of a manual: read off click, written as roff for man(1) and as reStructuredText.

`make man` writes those for man(1) to `packaging/man`, from where the wheel takes them.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from shmclient._commands.cli import cli as client
from shmhost.cli import cli as host
from shmprotocol import __version__
from shmprotocol.cli import EXIT_CODES

ENVIRONMENT = {
    "SHMHOST_SOCKET": "The host's socket, for all commands and for programs.",
    "XDG_RUNTIME_DIR": "Without SHMHOST_SOCKET, the socket is $XDG_RUNTIME_DIR/shmhost/host.sock; "
    "without both, /run/shmhost/host.sock.",
}


class Page(NamedTuple):
    """The manual of a command: a line, usage, paragraphs, and what it takes, with the help of each."""

    command: str
    summary: str
    usage: str
    paragraphs: list[str]
    options: list[tuple[str, str]]
    commands: list[tuple[str, str]]
    examples: list[str]
    environment: dict[str, str]

    @property
    def name(self) -> str:
        """The name of its file: shmhost-serve."""
        return self.command.replace(" ", "-")


def pages() -> list[Page]:
    """Return the pages of both commands and of all their subcommands."""
    return [
        page for name, command in (("shmhost", host), ("shmclient", client)) for page in _pages(name, command)
    ]


def _pages(name: str, command: click.Command, parent: click.Context | None = None) -> Iterator[Page]:
    context = click.Context(command, parent, info_name=name, **command.context_settings)
    yield _page(name, command, context)
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            subcommand = command.get_command(context, word)
            if subcommand is not None and not subcommand.hidden:
                yield from _pages(f"{name} {word}", subcommand, context)


def _page(name: str, command: click.Command, context: click.Context) -> Page:
    paragraphs = [
        " ".join(text.split()) for text in re.split(r"\n\s*\n", inspect.cleandoc(command.help or ""))
    ]
    options = [item for item in command.params if isinstance(item, click.Option)]
    # Not click's own: a command keeps the names of its --help from the first context that asks.
    names = command.get_help_option_names(context)
    options.append(click.Option(names, is_flag=True, help="Show this message and exit."))
    commands: list[tuple[str, str]] = []
    if isinstance(command, click.Group):
        commands = [
            (word, _summary(item)) for word, item in sorted(command.commands.items()) if not item.hidden
        ]
    return Page(
        name,
        _summary(command),
        " ".join(command.collect_usage_pieces(context)),
        paragraphs,
        [_described(item, context) for item in options],
        commands,
        re.findall(r"^\$ (.+)$", command.epilog or "", re.MULTILINE),
        _variables(command) | ENVIRONMENT,
    )


def _described(option: click.Option, context: click.Context) -> tuple[str, str]:
    record = option.get_help_record(context)
    return record[0] if record else "", " ".join((option.help or "").split())


def _variables(command: click.Command) -> dict[str, str]:
    options = {str(item.envvar): item.opts[0] for item in command.params if item.envvar}
    return {name: f"As {option}." for name, option in sorted(options.items())}


def _summary(command: click.Command) -> str:
    sentence = re.split(r"(?<=[.:])\s", " ".join((command.help or "").split()), maxsplit=1)[0]
    return sentence.rstrip(".:")


def roff(page: Page) -> str:
    """Return a page for man(1)."""
    related = [f"{page.name}-{word}" for word, _ in page.commands]
    related += [name for name in ("shmhost", "shmclient") if name != page.name]
    lines = [
        f'.TH {page.name.upper()} 1 "" "shmhost {__version__}" "shmhost"',
        ".SH NAME",
        _roff(f"{page.name} - {page.summary[0].lower()}{page.summary[1:]}").replace("`", ""),
        ".SH SYNOPSIS",
        rf"\fB{_roff(page.command)}\fR {_roff(page.usage)}",
        ".SH DESCRIPTION",
        *(line for paragraph in page.paragraphs for line in (".PP", _roff(paragraph.replace("`", "")))),
        *_terms("COMMANDS", page.commands),
        *_terms("OPTIONS", page.options),
        *_terms("ENVIRONMENT", list(page.environment.items())),
        *_terms("EXIT STATUS", [(str(code), text) for code, text in EXIT_CODES.items()]),
        *(
            [".SH EXAMPLES", ".nf", *(f"$ {_roff(example)}" for example in page.examples), ".fi"]
            * bool(page.examples)
        ),
        ".SH SEE ALSO",
        ",\n".join(rf"\fB{_roff(name)}\fR(1)" for name in related),
    ]
    return "\n".join(lines) + "\n"


def _terms(title: str, terms: list[tuple[str, str]]) -> Iterator[str]:
    if terms:
        yield f".SH {title}"
    for term, text in terms:
        yield from (".TP", rf"\fB{_roff(term)}\fR", _roff(text.replace("`", "")) or r"\&")


def _roff(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def write(folder: Path) -> None:
    """Write all pages for man(1) to a folder, in place of those that are there."""
    for path in folder.glob("*.1"):
        path.unlink()
    for page in pages():
        (folder / f"{page.name}.1").write_text(roff(page), "utf-8")


def restructured() -> Iterator[str]:
    """Yield the page on all commands, line by line."""
    for page in pages():
        depth = "-" if " " not in page.command else "~"
        yield from ("", page.command, depth * len(page.command), "")
        yield from (".. code-block:: text", "", f"   {page.command} {page.usage}", "")
        for paragraph in page.paragraphs:
            yield from (_escaped(paragraph), "")
        for term, text in (*page.commands, *page.options):
            yield from (f"``{term}``", f"   {_escaped(text)}", "")
        if page.examples:
            yield from (".. code-block:: console", "", *(f"   $ {example}" for example in page.examples), "")


def _escaped(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        f"`{part}`" if part.startswith("`") else re.sub(r"([\\*|_])", r"\\\1", part) for part in parts
    )


if __name__ == "__main__":
    write(Path(sys.argv[1]))
