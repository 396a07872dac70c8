"""The settings of a host: one table, from which the options of the commands are made.

A flag comes before the environment, the environment before one TOML file, the file before the default: the
order is click's own. The names are the same in all of them: `--socket-mode`, `$SHMHOST_SOCKET_MODE`,
`socket_mode`; and the same text means the same everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import rich_click as click

from shmhost.machine.logs import FORMATS, LEVELS
from shmhost.settings.config import (
    Config,
    check_board,
    check_budget,
    check_choice,
    check_idle,
    check_metrics,
    check_mode,
    check_spares,
    check_store,
    check_window,
    parse_window,
)
from shmhost.settings.sources import Text, file_option, source_of
from shmprotocol.cli import parse_size
from shmprotocol.errors import InvalidArgument
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.paths import socket_path


class Setting(NamedTuple):
    """A row of the table. `name` is that of the option, the variable and the key in the file.

    `field` is the field of Config, which has the default; `parse` and `show` turn text into its value and
    back. A setting that is `multiple` has a tuple of such values; one that `is_number` needs no quotes in
    a file.
    """

    name: str
    field: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]
    metavar: str
    help: str
    multiple: bool = False
    is_number: bool = False


def _octal(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        raise InvalidArgument(f"a socket mode is an octal number such as 660, not {text!r:.40}") from None
    return check_mode(mode)


def _names(text: str) -> int:
    try:
        return check_board(int(text))
    except ValueError:
        raise InvalidArgument(f"a number of names such as 65535 is needed, not {text!r:.40}") from None


def _seconds(text: str) -> float:
    try:
        return check_idle(float(text))
    except ValueError:
        raise InvalidArgument(f"a number of seconds such as 60 is needed, not {text!r:.40}") from None


def _regions(text: str) -> int | None:
    try:
        return None if text == "auto" else check_store(int(text))
    except ValueError:
        raise InvalidArgument(f"a number of regions or auto is needed, not {text!r:.40}") from None


SETTINGS = (
    Setting(
        "socket",
        "socket_path",
        lambda text: socket_path(text, {}),
        str,
        "PATH",
        "Path of the socket to listen on. Default: as for all commands.",
    ),
    Setting(
        "socket_mode",
        "socket_mode",
        _octal,
        "{:o}".format,
        "OCTAL",
        "Permission bits of the socket. Default: 660.",
    ),
    Setting(
        "window",
        "windows",
        lambda text: check_window(*parse_window(text)),
        lambda window: f"{window[0]:#x}:{window[1]}",
        "BASE:SIZE",
        "Addresses for regions, such as 0x550000000000:256G. Repeat it to add windows for when one is full.",
        multiple=True,
    ),
    Setting(
        "budget",
        "budget",
        lambda text: check_budget(parse_size(text)),
        str,
        "SIZE",
        "Limit of the memory for regions. Default: 80% of the memory after 36 MiB for the host itself.",
        is_number=True,
    ),
    Setting(
        "spares",
        "spares",
        lambda text: check_spares(parse_size(text)),
        str,
        "SIZE",
        "Limit of the regions that a connection gets ahead of its next put. Default: 4 MiB; 0: none.",
        is_number=True,
    ),
    Setting(
        "reserve",
        "reserve",
        lambda text: check_spares(parse_size(text)),
        str,
        "SIZE",
        "Limit of what the clients of a user may reserve for puts. Default: 256 MiB; 0: nothing.",
        is_number=True,
    ),
    Setting(
        "store",
        "store",
        _regions,
        lambda regions: "auto" if regions is None else str(regions),
        "REGIONS",
        "Regions that systemd keeps for the next host. Default: FileDescriptorStoreMax=; 0: none.",
        is_number=True,
    ),
    Setting(
        "until_idle",
        "until_idle",
        _seconds,
        lambda seconds: f"{seconds:g}",
        "SECONDS",
        "Stop when nobody has been connected for so long. Default: 0, never.",
        is_number=True,
    ),
    Setting(
        "policy",
        "policy",
        lambda text: os.path.abspath(text) if text else "",
        str,
        "FILE",
        "Rules in TOML: who may create which names, and have how much. Default: none.",
    ),
    Setting(
        "fleet",
        "fleet",
        lambda text: os.path.abspath(text) if text else "",
        str,
        "FILE",
        "Join the hosts of other machines, as this TOML file says. Needs the extra `fleet`. Default: none.",
    ),
    Setting(
        "log_format",
        "log_format",
        lambda text: check_choice("log format", FORMATS, text),
        str,
        "text|json",
        "Format of the log. Default: text.",
    ),
    Setting(
        "log_level",
        "log_level",
        lambda text: check_choice("log level", LEVELS, text),
        str,
        "LEVEL",
        "Lowest level to log: info (the default), warning, or debug.",
    ),
    Setting(
        "metrics",
        "metrics",
        check_metrics,
        str,
        "ADDRESS",
        "Serve Prometheus metrics at this address: 127.0.0.1:9464 or a path. Default: no metrics.",
    ),
    Setting(
        "board",
        "board",
        _names,
        str,
        "NAMES",
        "Names of which clients see without a request which region is current. Default: 65535.",
        is_number=True,
    ),
)


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the settings of a host: one for each row of the table, and the file."""
    for setting in reversed(SETTINGS):
        option = click.option(
            f"--{setting.name.replace('_', '-')}",
            type=Text(setting.parse, is_number=setting.is_number),
            envvar=f"SHMHOST_{setting.name.upper()}",
            metavar=setting.metavar,
            multiple=setting.multiple,
            help=setting.help,
        )
        command = option(command)
    return file_option(command)


def to_config(options: Mapping[str, Any]) -> Config:
    """Return the Config for parsed options. UsageError when they do not go together."""
    given = {setting.field: options[setting.name] for setting in SETTINGS}
    try:
        return Config(**{field: value for field, value in given.items() if value not in (None, ())})
    except InvalidArgument as error:
        raise click.UsageError(str(error)) from None


def shown(config: Config) -> dict[str, str]:
    """Return the settings of a config as text that can be given again."""
    values = {setting: getattr(config, setting.field) for setting in SETTINGS}
    return {
        setting.name: ",".join(map(setting.show, value)) if setting.multiple else setting.show(value)
        for setting, value in values.items()
    }


def sources(context: click.Context) -> dict[str, str]:
    """Return where each setting of a command came from: `--budget`, `$SHMHOST_BUDGET`, a file, `default`."""
    parameters = {parameter.name: parameter for parameter in context.command.params}
    return {setting.name: source_of(context, parameters[setting.name]) for setting in SETTINGS}
