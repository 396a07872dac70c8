"""The command `shmhost`: starts a host, and shows what one holds."""

from __future__ import annotations

import sys

import rich_click as click

from shmhost.commands import host, regions
from shmprotocol.command_line import manual
from shmprotocol.errors import ShmError, exit_code


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=manual("shmhost serve &", "shmhost ls", "shmhost top", "shmhost demo"),
)
@click.version_option(package_name="shmhost")
def cli() -> None:
    """Share memory between the processes of this machine, at one address in all of them."""


for command in (*host.COMMANDS, *regions.COMMANDS):
    cli.add_command(command)


def main() -> None:
    """Run the command; an error of the project is one line and an exit code."""
    try:
        cli()
    except ShmError as error:
        print(f"shmhost: {error}", file=sys.stderr)
        sys.exit(exit_code(error))
    except OSError as error:  # of a file that was named, or of the output
        print(f"shmhost: {error.filename or 'cannot go on'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
