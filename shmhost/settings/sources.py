"""Where the text of a setting comes from, by click's own means, and the TOML file among them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import rich_click as click
from click.core import ParameterSource

from shmprotocol.errors import InvalidArgument
from shmprotocol.options import Checked

FILE = Path("/etc/shmhost/shmhost.toml")
_FILE_KEY = "shmhost.settings.file"  # in the context's meta: the path of the file that was read


class Text(Checked):
    """Text for a function to parse. Its InvalidArgument is wrong usage and tells the text's source.

    `is_number`: a file may have it without quotes.
    """

    name = "text"
    envvar_list_splitter: ClassVar[str | None] = ","

    def __init__(self, parse: Callable[[str], Any], *, is_number: bool = False) -> None:
        super().__init__(self.name, parse)
        self.is_number = is_number

    def explain(
        self, error: InvalidArgument, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the text of an error, with the source unless that is the command line."""
        source = source_of(ctx, param) if ctx is not None and param is not None else "default"
        hidden = source == "default" or source.startswith("--")  # click names the option anyway
        return str(error) if hidden else f"{error}, from {source}"


def source_of(context: click.Context, parameter: click.Parameter) -> str:
    """Return the source of a parameter: `--budget`, `$SHMHOST_BUDGET`, the path of a file, or `default`."""
    source = context.get_parameter_source(parameter.name or "")
    if source is ParameterSource.COMMANDLINE:
        return parameter.opts[0]
    if source is ParameterSource.ENVIRONMENT:
        return f"${parameter.envvar}"
    if source is ParameterSource.DEFAULT_MAP:
        return str(context.meta[_FILE_KEY])
    return "default"


def file_option(command: Callable[..., None]) -> Callable[..., None]:
    """Add the option `--config`: a file with the defaults of all Text options of the command."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="SHMHOST_CONFIG",
        is_eager=True,  # before the settings, whose defaults it gives
        expose_value=False,
        callback=_load,
        help=f"Settings in TOML. Default: $SHMHOST_CONFIG, or {FILE} if it exists.",
    )(command)


def _load(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    options = {
        option.name: option
        for option in context.command.params
        if option.name is not None and isinstance(option.type, Text)
    }
    try:
        texts = _read_file(path, options)
    except InvalidArgument as error:
        raise click.BadParameter(str(error), context, parameter) from None
    context.meta[_FILE_KEY] = path or FILE
    context.default_map = {**(context.default_map or {}), **texts}


def _read_file(path: Path | None, options: Mapping[str, click.Parameter]) -> dict[str, str | list[str]]:
    file = path or FILE
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise InvalidArgument(f"there is no settings file {file}") from None
    except (OSError, ValueError, RecursionError) as error:  # the parser's too, which is not only ValueError
        raise InvalidArgument(f"the settings file {file} cannot be read: {error}") from None
    unknown = sorted(set(content) - set(options))
    if unknown:
        raise InvalidArgument(f"{file} has the unknown setting {unknown[0]!r}: use {', '.join(options)}")
    return {name: _texts(file, options[name], value) for name, value in content.items()}


def _texts(file: Path, option: click.Parameter, value: object) -> str | list[str]:
    if isinstance(option.type, Text) and option.type.is_number and type(value) is int:
        value = str(value)
    if not option.multiple and isinstance(value, str):
        return value
    values = value.split(",") if isinstance(value, str) else value
    if option.multiple and isinstance(values, list) and all(isinstance(text, str) for text in values):
        return values
    raise InvalidArgument(
        f"{file}: {option.name} is text in quotes, as in `shmhost config`, not {value!r:.60}"
    )
