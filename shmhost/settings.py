"""Where each setting of a host comes from, in this order: flag, environment, one TOML file, default.

The names are the same in all of them: `--socket-mode`, `$SHMHOST_SOCKET_MODE`, `socket_mode`. Values are text
until they are parsed, whatever they come from, so that the same text means the same everywhere.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shmhost.config import (
    WINDOWS,
    Config,
    check_budget,
    check_choice,
    check_metrics,
    check_mode,
    check_windows,
    default_budget,
    parse_size,
    parse_window,
)
from shmhost.logs import FORMATS, LEVELS
from shmprotocol.errors import InvalidArgument
from shmprotocol.paths import socket_path

NAMES = ("socket", "socket_mode", "window", "budget", "log_format", "log_level", "metrics")
FILE_VARIABLE = "SHMHOST_CONFIG"
FILE = Path("/etc/shmhost/shmhost.toml")


class Setting(NamedTuple):
    """A setting's text, several for windows, and where it was found. No text: the default."""

    name: str
    text: tuple[str, ...]
    source: str


def collect(
    flags: Mapping[str, tuple[str, ...]], environ: Mapping[str, str], file: Path | None
) -> dict[str, Setting]:
    """Return all settings by name. `file` is the one of `--config`; else $SHMHOST_CONFIG, else that in /etc.

    InvalidArgument: the file cannot be read (that in /etc may be missing), or has an unknown name or a wrong
    type.
    """
    path, content = _read_file(file, environ)
    found: dict[str, Setting] = {}
    for name in NAMES:
        variable = f"SHMHOST_{name.upper()}"
        if flags.get(name):
            found[name] = Setting(name, flags[name], f"--{name.replace('_', '-')}")
        elif environ.get(variable):
            text = environ[variable]
            found[name] = Setting(
                name, tuple(text.split(",")) if name == "window" else (text,), f"${variable}"
            )
        elif name in content:
            found[name] = Setting(name, content[name], str(path))
        else:
            found[name] = Setting(name, (), "default")
    return found


def to_config(found: Mapping[str, Setting]) -> Config:
    """Return what the settings mean; InvalidArgument names the setting and its source."""
    return Config(
        socket_path=_parse(
            found["socket"], lambda texts: socket_path(texts[0] if texts else None, os.environ)
        ),
        socket_mode=_parse(found["socket_mode"], lambda texts: _octal(texts[0]) if texts else 0o660),
        windows=_parse(
            found["window"], lambda texts: check_windows(tuple(map(parse_window, texts)) or WINDOWS)
        ),
        budget=_parse(
            found["budget"], lambda texts: check_budget(parse_size(texts[0])) if texts else default_budget()
        ),
        log_format=_parse(found["log_format"], _choice("log format", FORMATS)),
        log_level=_parse(found["log_level"], _choice("log level", LEVELS)),
        metrics=_parse(found["metrics"], lambda texts: check_metrics(texts[0]) if texts else ""),
    )


def _choice(what: str, choices: Sequence[str]) -> Callable[[tuple[str, ...]], str]:
    """Return a function that takes one of some choices; the first is the default."""
    return lambda texts: check_choice(what, choices, texts[0]) if texts else choices[0]


def shown(config: Config) -> dict[str, str]:
    """Return the settings of a config as text that can be given again."""
    return {
        "socket": config.socket_path,
        "socket_mode": f"{config.socket_mode:o}",
        "window": ",".join(f"{base:#x}:{size}" for base, size in config.windows),
        "budget": str(config.budget),
        "log_format": config.log_format,
        "log_level": config.log_level,
        "metrics": config.metrics,
    }


def _parse(setting: Setting, parse: Any) -> Any:
    try:
        return parse(setting.text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{setting.name}, from {setting.source}: {error}") from None


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        raise InvalidArgument(f"a socket mode is an octal number, as 660, not {text!r:.40}") from None
    return check_mode(mode)


def _read_file(file: Path | None, environ: Mapping[str, str]) -> tuple[Path, dict[str, tuple[str, ...]]]:
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    path = named or FILE
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if named is None:
            return path, {}
        raise InvalidArgument(f"there is no settings file {path}") from None
    except (OSError, ValueError, RecursionError) as error:  # of the parser: not only its own ValueErrors
        raise InvalidArgument(f"the settings file {path} cannot be read: {error}") from None
    unknown = sorted(set(content) - set(NAMES))
    if unknown:
        raise InvalidArgument(f"{path} has the unknown setting {unknown[0]!r}: there are {', '.join(NAMES)}")
    return path, {name: _texts(path, name, value) for name, value in content.items()}


def _texts(path: Path, name: str, value: object) -> tuple[str, ...]:
    values = value if name == "window" and isinstance(value, list) else [value]
    if name == "budget" and type(value) is int:
        values = [str(value)]
    if not all(isinstance(one, str) for one in values):
        raise InvalidArgument(f"{path}: {name} is text in quotes, as in `shmhost config`, not {value!r:.60}")
    return tuple(map(str, values))
