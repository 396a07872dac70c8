"""The command `shmhost`: starts a host, and shows what one holds."""

from __future__ import annotations

import rich_click as click

from shmhost.commands import fleet, regions
from shmhost.commands import serve as host
from shmprotocol.cli import manual, run


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=manual("shmhost serve &", "shmhost ls", "shmhost top", "shmhost demo"),
)
@click.version_option(package_name="shmhost")
def cli() -> None:
    """Share memory between the processes of this machine, at one address in all of them."""


for _command in (*host.COMMANDS, *regions.COMMANDS, *fleet.COMMANDS):
    cli.add_command(_command)


def main() -> None:
    """Run the command; see `shmprotocol.cli.run` for how it ends."""
    run(cli, "shmhost")


if __name__ == "__main__":
    main()
