"""What README and the pages in `docs` name is there: commands and options, Python's names, C's, variables."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

import shmclient
import shmclient.aio
import shmclient.shared_memory
import shmhost
import shmhost.testing
from docs.site import headers
from shmclient import posix
from shmclient._commands.cli import cli as client_commands
from shmhost.cli import cli as host_commands
from shmhost.settings import settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS: dict[str, click.Group] = {"shmhost": host_commands, "shmclient": client_commands}
# What the pages call an object, in its class and in that of the async client.
OBJECTS: dict[str, tuple[object, ...]] = {
    "shm": (shmclient.Client, shmclient.aio.AsyncClient),
    "client": (shmclient.Client,),
    "region": (shmclient.Region,),
    "builder": (shmclient.RegionBuilder,),
    "arena": (shmclient.Arena,),
    "camera": (shmclient.Arena,),
    "cameras": (shmclient.ArenaView,),
    "view": (shmclient.ArenaView,),
    "pinner": (shmclient.Pinner,),
    "pinned": (shmclient.Pinned,),
    "host": (shmhost.EmbeddedHost,),
    "shm_host": (shmhost.testing.HostProcess,),
    "shmclient": (shmclient,),
    "shmhost": (shmhost,),
    "posix": (posix,),
}


def blocks(page: Path, language: str) -> Iterator[str]:
    for match in re.finditer(
        rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    ):
        yield match[1]


def inline(page: Path) -> list[str]:
    """Return the code between backticks, outside of blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def command_lines() -> Iterator[tuple[str, str]]:
    """Give each line of a console, and each piece of code in the text, with its page."""
    for page in PAGES:
        for block in blocks(page, "console"):
            yield from ((page.name, line[2:]) for line in block.splitlines() if line.startswith("$ "))
        yield from ((page.name, code) for code in inline(page))


LINES = sorted({line for line in command_lines() if line[1].split(" ")[0] in COMMANDS and " " in line[1]})


def unknown(line: str) -> list[str]:
    """Return the commands and options in a line that the program does not have."""
    program, *words = re.split(r" -- | \| ", line, maxsplit=1)[0].split()
    command: click.Command = COMMANDS[program]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words.pop(0))
        if below is None:
            return [line]
        command = below
    options = {name for option in command.get_params(click.Context(command)) for name in option.opts}
    return [word for word in words if re.match(r"--?\w", word) and word.split("=")[0] not in options]


def test_commands_and_options_exist() -> None:
    assert len(LINES) > 60
    assert {line: unknown(line[1]) for line in LINES if unknown(line[1])} == {}


def test_an_option_that_is_missing_is_found() -> None:
    assert unknown("shmhost ls --jsom x") == ["--jsom"]
    assert unknown("shmhost lss") == ["shmhost lss"]


def test_options_without_their_command_exist() -> None:
    """Such as `--spares SIZE`: some command has it, or Docker."""
    docker = {"--ipc", "--pid", "--shm-size"}
    options = {
        name
        for group in COMMANDS.values()
        for command in group.commands.values()
        for option in command.get_params(click.Context(command))
        for name in option.opts
    }
    named = {code.split(" ")[0] for _, code in command_lines() if re.match(r"--\w", code)}
    assert sorted(named - options - docker) == []


def missing_names(page: Path) -> list[str]:
    objects = "|".join(OBJECTS)
    used = re.findall(
        rf"(?<![\w./-])({objects})\.(?!(?:md|svg|json|rules|service|sock|shm)\b)(\w+)",
        page.read_text("utf-8"),
    )
    return [f"{page.name}: {word}.{name}" for word, name in used if not has(word, name)]


def has(word: str, name: str) -> bool:
    """Whether an object of this name in the pages has it: from its class, or from its constructor."""
    return any(
        hasattr(base, name) or re.search(rf"\bself\.{name}\b", source(base))
        for thing in OBJECTS[word]
        for base in (inspect.getmro(thing) if isinstance(thing, type) else (thing,))
    )


def source(base: object) -> str:
    """Return the text of a class; "" of what is not a class of Python's, such as `object`."""
    try:
        return inspect.getsource(base) if isinstance(base, type) else ""
    except (OSError, TypeError):
        return ""


def test_names_of_python_exist() -> None:
    assert [name for page in PAGES for name in missing_names(page)] == []


def test_functions_of_c_exist() -> None:
    """Or fixtures of the plugin for pytest, which begin alike, and the functions of POSIX."""
    sources = [path.read_text("utf-8") for path in headers.FOLDER.glob("shm_*.h")]
    sources += [path.read_text("utf-8") for path in (ROOT / "shmhost" / "testing").glob("*.py")]
    there = set(re.findall(r"\bshm_\w+", "".join(sources))) | {"shm_open", "shm_unlink"}
    named = {name for page in PAGES for name in re.findall(r"\bshm_\w+\b(?!\.)", page.read_text("utf-8"))}
    named -= set(posix.__all__)
    assert len(named) > 10
    assert sorted(named - there) == []


def test_headers_exist() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    named = set(re.findall(r"\bshm_\w+\.h\b", text))
    assert len(named) > 3
    assert sorted(name for name in named if not (headers.FOLDER / name).exists()) == []


def test_variables_of_the_environment_exist() -> None:
    text = "".join(page.read_text("utf-8") for page in PAGES)
    files = [path for top in ("shmhost", "shmclient", "protocol") for path in (ROOT / top).rglob("*.py")]
    sources = "".join(path.read_text("utf-8") for path in [*files, ROOT / "setup.py"])
    named = set(re.findall(r"\b(SHM(?:HOST|CLIENT)?_[A-Z_]+)\b", text))
    assert len(named) > 3
    named -= {f"SHMHOST_{setting.name.upper()}" for setting in settings.SETTINGS}
    assert sorted(name for name in named if name not in sources) == []


def pytest_commands() -> list[tuple[str, list[str]]]:
    """Return each command of pytest in the pages, and what it selects among the tests."""
    lines = [line for line in command_lines() if re.match(r"(\w+=\w+ )*pytest ", line[1])]
    return [(f"{page}: {code}", shlex.split(code)) for page, code in lines]


def test_commands_of_pytest_select_tests() -> None:
    """By files that exist, words of `-k` that are in them, and markers that are known."""
    commands = pytest_commands()
    assert len(commands) > 30
    wrong = []
    for shown, words in commands:
        files = [ROOT / word for word in words if word.startswith("tests/")]
        text = "".join(path.read_text("utf-8") for path in files if path.exists())
        selection = words[words.index("-k") + 1] if "-k" in words else ""
        missing = [word for word in re.findall(r"\w+", selection) if word not in {"or", "and", "not"}]
        if not all(path.exists() for path in files) or any(word not in text for word in missing):
            wrong.append(shown)
    assert wrong == []


def test_targets_and_modules_exist() -> None:
    """Of `make` and of `python -m`."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    lines = [code for _, code in command_lines()]
    targets = {match[1] for code in lines if (match := re.match(r"make ([a-z-]+)", code))}
    modules = {match[1] for code in lines if (match := re.match(r"python -m ([\w.]+)", code))}
    assert len(targets) > 5
    assert sorted(name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)) == []
    assert len(modules) > 2
    assert sorted(name for name in modules - {"build"} if importlib.util.find_spec(name) is None) == []
