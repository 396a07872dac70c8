"""The command `fleet`: what the hosts of a fleet say, each about itself. Looks from outside, as no host."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import rich_click as click
from rich.console import Console

from shmhost.commands.options import json_option, print_json
from shmhost.commands.views import fleet as fleet_view
from shmhost.fleet.config import read_fleet
from shmprotocol.cli import manual

ASK_S = 5.0
F = TypeVar("F", bound=Callable[..., Any])

file_option: Callable[[F], F] = click.option(
    "--fleet",
    "file",
    metavar="FILE",
    envvar="SHMHOST_FLEET",
    type=click.Path(dir_okay=False),
    help="The file that the host here was started with. Default: $SHMHOST_FLEET.",
)


def ask_fleet(file: str) -> list[fleet_view.Row]:
    """Return what each host of a fleet says. HostError: none can be reached; InvalidArgument: the file."""
    from shmhost.fleet.messages import pack
    from shmhost.fleet.observer import observe

    plan = read_fleet(os.path.abspath(file), ())
    return fleet_view.rows_of(observe(plan, pack("status"), ASK_S, fleet_view.named))


@click.command("fleet", epilog=manual("shmhost fleet --fleet fleet.toml", "shmhost fleet --json | jq .hosts"))
@file_option
@json_option
def fleet_command(file: str | None, as_json: bool) -> None:
    """Show the hosts of a fleet: their slices of the addresses, their links, and copies of regions."""
    if file is None:
        raise click.UsageError("say which fleet: --fleet FILE, or $SHMHOST_FLEET")
    rows = ask_fleet(file)
    if as_json:
        print_json({"hosts": rows})
        return
    console = Console()
    console.print(fleet_view.fleet_table(rows))
    if any(row.get("replicas") for row in rows):
        console.print(fleet_view.replica_table(rows))
    for line in fleet_view.problems(rows):
        console.print(line)


COMMANDS = (fleet_command,)
