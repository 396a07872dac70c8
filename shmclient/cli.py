"""The command `shmclient`: store, fetch and watch regions, and start native programs that read them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from typing import BinaryIO

import rich_click as click

import shmclient
from shmprotocol.errors import ShmError, exit_code

CHUNK = 16 * 1024 * 1024  # bytes a write: keeps Ctrl-C prompt

socket_option = click.option(
    "--socket",
    "path",
    metavar="PATH",
    help="The host's socket. Default: $SHMHOST_SOCKET, $XDG_RUNTIME_DIR/shmhost/host.sock, "
    "or /run/shmhost/host.sock.",
)
wait_option = click.option("--wait", type=float, metavar="SECONDS", help="Wait so long for the name.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shmhost")
def cli() -> None:
    """Use the memory regions of a shmhost from the shell.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no host, 4 no such region, 5 access denied,
    6 timed out.
    """


@cli.command()
@click.argument("name")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--mode", default="600", metavar="OCTAL", help="Who may read and replace it. Default: 600.")
@socket_option
def put(name: str, file: BinaryIO, mode: str, path: str | None) -> None:
    """Store FILE, or standard input, as region NAME.

    Example: shmclient put config config.json
    """
    with shmclient.connect(path) as client:
        region = client.put(name, file.read(), mode=_parse_octal(mode))
        print(f"{region.name} generation {region.generation}: {region.size} bytes")


@cli.command()
@click.argument("name")
@click.option("-o", "--output", type=click.File("wb"), default="-", metavar="FILE", help="Default: stdout.")
@wait_option
@socket_option
def get(name: str, output: BinaryIO, wait: float | None, path: str | None) -> None:
    """Write the payload of region NAME to a file or to standard output.

    Example: shmclient get config --wait 10 | jq .
    """
    with shmclient.connect(path) as client:
        data = client.open(name, wait=wait, anywhere=True).data
        for start in range(0, len(data), CHUNK):
            output.write(data[start : start + CHUNK])
        output.flush()


@cli.command()
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@socket_option
def watch(prefix: str, as_json: bool, path: str | None) -> None:
    """Print a line for each change of a name that starts with PREFIX, until Ctrl-C.

    Example: shmclient watch models/
    """
    with shmclient.connect(path) as client, client.watch(prefix) as changes:
        for kind, info in changes:
            if as_json:
                print(json.dumps({"kind": kind, **info._asdict()}), flush=True)
            else:
                print(f"{kind} {info.name} generation {info.generation}, {info.size} bytes", flush=True)


@cli.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--region", "names", multiple=True, required=True, metavar="NAME", help="May be repeated.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@wait_option
@socket_option
def execute(names: tuple[str, ...], command: tuple[str, ...], wait: float | None, path: str | None) -> None:
    """Start PROGRAM with the descriptors of regions, named in $SHM_REGIONS.

    The program takes this one's place and keeps its connection to the host, so that the leases last as
    long as it runs. In C, shm_region_fd("NAME") finds a descriptor and shm_region_map() maps it.

    Example: shmclient exec --region words -- ./reader words
    """
    program = shutil.which(command[0])
    if program is None:
        print(f"shmclient: no program {command[0]!r} in $PATH", file=sys.stderr)
        sys.exit(127)  # as env(1)
    client = shmclient.connect(path)
    regions = client.open_many(names, wait=wait, anywhere=True)
    _pass_on(client, regions)
    try:
        os.execv(program, command)
    except OSError as error:
        print(f"shmclient: cannot start {program}: {error.strerror}", file=sys.stderr)
        sys.exit(126)


def _pass_on(client: shmclient.Client, regions: Sequence[shmclient.Region]) -> None:
    """Let the program inherit the descriptors, and the connection that holds the leases."""
    os.set_inheritable(client.fileno(), True)
    for region in regions:
        os.set_inheritable(region.fileno(), True)
    os.environ["SHM_REGIONS"] = "".join(f"{region.fileno()} {region.name}\n" for region in regions)


def _parse_octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no octal number, as 640", param_hint="--mode") from None


def main() -> None:
    """Run the command; an error of the project is one line and an exit code."""
    try:
        cli()
    except ShmError as error:
        print(f"shmclient: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
