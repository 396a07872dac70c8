"""The options and names that both commands take: checked before anything is done, completed by the shell.

Loads the library of the command line: only commands import this.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from shmprotocol.cli import SOCKET_HELP
from shmprotocol.errors import InvalidArgument, ShmError
from shmprotocol.wire.names import check_name
from shmprotocol.wire.paths import socket_path
from shmprotocol.wire.query import Query

C = TypeVar("C", bound=Callable[..., Any])
COMPLETED_MAX = 1000  # names that a shell is told: more nobody reads
COMPLETION_S = 2.0  # a shell waits for this without a word

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]  # generic from click 8.5 on
else:
    ParamType = click.ParamType


class Checked(ParamType):
    """Text that a function checks or parses. Its InvalidArgument is wrong usage."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text; what is not text was parsed before."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InvalidArgument as error:
            return self.fail(self.explain(error, param, ctx), param, ctx)

    def explain(
        self, error: InvalidArgument, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the text of an error."""
        return str(error)


class Seconds(click.FloatRange):
    """A number of seconds in a range, which `nan` is not in."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value!r:.40} is not a number of seconds", param, ctx)
        return seconds


def complete_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the names that begin so, of the host that the command would ask: none if it does not answer."""
    del parameter
    try:
        path = socket_path(context.params.get("path"), os.environ)
        with Query(path, timeout_s=COMPLETION_S) as query:
            return [info.name for info in islice(query.regions(incomplete), COMPLETED_MAX)]
    except ShmError:
        return []


# A region's or arena's name given to an option; that of an argument is checked by what it is used for.
name_type: Checked = Checked("name", check_name)


def socket_option(command: C) -> C:
    """Add `--socket PATH` to a command, as its parameter `path`."""
    kind = Checked("path", lambda text: socket_path(text, {}))
    return click.option("--socket", "path", type=kind, metavar="PATH", help=SOCKET_HELP)(command)
