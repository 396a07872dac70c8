"""Options that several commands have, and how they print JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich_click as click

from shmhost import settings
from shmhost.config import Config
from shmprotocol.command_line import SOCKET_HELP

socket_option = click.option("--socket", "path", metavar="PATH", help=SOCKET_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_SETTINGS = (
    click.option("--socket", metavar="PATH", help="Where to listen. Default: as for all commands."),
    click.option("--socket-mode", metavar="OCTAL", help="Who may connect. Default: 660."),
    click.option(
        "--window",
        multiple=True,
        metavar="BASE:SIZE",
        help="Addresses to hand out, as 0x550000000000:256G; the next one is used when one is full.",
    ),
    click.option("--budget", metavar="SIZE", help="Memory to give out at most. Default: 80% of it."),
    click.option("--log-format", metavar="text|json", help="How the log is written. Default: text."),
    click.option("--log-level", metavar="LEVEL", help="info (the default), warning, or debug."),
    click.option(
        "--metrics",
        metavar="ADDRESS",
        help="Serve Prometheus metrics here, as 127.0.0.1:9464 or a path. Default: nowhere.",
    ),
)
_file_option = click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings in TOML. Default: $SHMHOST_CONFIG, or /etc/shmhost/shmhost.toml if it is there.",
)


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the settings of a host: one for each of `settings.NAMES`, and the file."""
    for option in reversed((*_SETTINGS, _file_option)):
        command = option(command)
    return command


def read_settings(file: Path | None, **options: Any) -> dict[str, settings.Setting]:
    """Return the settings that the options, the environment and the file give."""
    given = {
        name: value if name == "window" else (value,)
        for name, value in options.items()
        if value is not None and value != ()
    }
    return settings.collect(given, os.environ, file)


def read_config(**options: Any) -> Config:
    """Return the same as a Config."""
    return settings.to_config(read_settings(**options))


def print_json(value: object) -> None:
    """Print a value as JSON for people and programs."""
    print(json.dumps(value, indent=2))
