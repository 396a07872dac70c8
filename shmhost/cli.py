"""The command `shmhost`: starts a host, and shows what one holds."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from datetime import UTC, datetime

import anyio
import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from shmhost.config import WINDOWS, Config, default_budget, parse_size, parse_window
from shmhost.query import Query
from shmhost.server import Host, backend_options
from shmprotocol import messages as m
from shmprotocol.errors import ShmError, exit_code
from shmprotocol.paths import socket_path
from shmprotocol.status import describe

socket_option = click.option(
    "--socket",
    "path",
    metavar="PATH",
    help="The host's socket. Default: $SHMHOST_SOCKET, $XDG_RUNTIME_DIR/shmhost/host.sock, "
    "or /run/shmhost/host.sock.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shmhost")
def cli() -> None:
    """Share memory between the processes of this machine, at one address in all of them.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no host, 4 no such region, 5 access denied,
    6 timed out.
    """


@cli.command()
@socket_option
@click.option("--socket-mode", default="660", metavar="OCTAL", help="Who may connect. Default: 660.")
@click.option(
    "--window",
    "windows",
    multiple=True,
    metavar="BASE:SIZE",
    help="Addresses to hand out, as 0x550000000000:256G; the next --window is used when one is full.",
)
@click.option("--budget", metavar="SIZE", help="Memory to give out at most. Default: 80% of what there is.")
def serve(path: str | None, socket_mode: str, windows: tuple[str, ...], budget: str | None) -> None:
    """Run a host until SIGTERM or Ctrl-C.

    Example: shmhost serve --socket /tmp/shm.sock --budget 4G
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    config = Config(
        socket_path=socket_path(path, os.environ),
        socket_mode=_parse_octal(socket_mode),
        windows=tuple(map(parse_window, windows)) or WINDOWS,
        budget=parse_size(budget) if budget else default_budget(),
    )
    anyio.run(_serve, config, backend_options=backend_options())


@cli.command("ls")
@click.argument("prefix", default="")
@socket_option
@json_option
def list_command(prefix: str, path: str | None, as_json: bool) -> None:
    """List the regions whose name starts with PREFIX.

    Example: shmhost ls models/
    """
    with Query(socket_path(path, os.environ)) as query:
        regions = list(query.regions(prefix))
    if as_json:
        _print_json([region._asdict() for region in regions])
    else:
        Console().print(_region_table(regions))


@cli.command()
@click.argument("name", required=False)
@click.option("--fd", type=int, metavar="N", help="An open descriptor that this command inherits.")
@socket_option
@json_option
def stat(name: str | None, fd: int | None, path: str | None, as_json: bool) -> None:
    """Show all that the host knows of region NAME, or the kernel of descriptor N, which needs no host.

    Examples: shmhost stat models/weights --json; shmhost stat --fd 3 3<file
    """
    if fd is not None and name is None:
        _print_descriptor(fd, as_json)
    elif name is not None and fd is None:
        _print_region(name, path, as_json)
    else:
        raise click.UsageError("Give either NAME or --fd N: exactly one of the two.")


def _print_region(name: str, path: str | None, as_json: bool) -> None:
    with Query(socket_path(path, os.environ)) as query:
        region = query.stat(name)
    if as_json:
        _print_json(region._asdict())
    else:
        Console().print(_stat_table(region))


def _print_descriptor(fd: int, as_json: bool) -> None:
    try:
        status = describe(fd)
    except OSError as error:
        raise ShmError(f"--fd: {error.strerror}") from error
    if as_json:
        _print_json(status.as_dict())
    else:
        print(status)


@cli.command("rm")
@click.argument("names", nargs=-1, required=True)
@socket_option
def remove(names: tuple[str, ...], path: str | None) -> None:
    """Unlink regions: the names are gone at once, the memory with the last reader.

    Example: shmhost rm models/old
    """
    with Query(socket_path(path, os.environ)) as query:
        for name in names:
            query.ask(m.Unlink(2, m.check_name(name)))


@cli.command()
@click.argument("word", required=False)
def demo(word: str | None) -> None:
    """Index Python's standard library in a region and read it from Python and C, by the same pointers.

    With WORD: print where it occurs. Example: shmhost demo memoryview
    """
    from shmhost.demo.run import demo as run_demo  # the one part that needs the client library

    sys.exit(run_demo(word, Console()))


async def _serve(config: Config) -> None:
    host = Host(config)
    for end in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(end, host.stop)
    await host.serve()


def _parse_octal(text: str) -> int:
    try:
        return int(text, 8)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no octal number, as 660", param_hint="--socket-mode") from None


def _region_table(regions: list[m.RegionInfo]) -> Table:
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "address", "size", "leases", "mode", "uid"):
        table.add_column(column, justify="right", no_wrap=True)
    for region in regions:
        table.add_row(
            region.name,
            str(region.generation),
            f"{region.address:#x}",
            format_size(region.size),
            str(region.leases),
            f"{region.mode:04o}",
            str(region.uid),
        )
    return table


def _stat_table(region: m.RegionInfo) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    created = datetime.fromtimestamp(region.created_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    rows = {
        "name": region.name,
        "generation": f"{region.generation} (region {region.region}, {region.state})",
        "address": f"{region.address:#x}",
        "size": f"{region.size} bytes ({format_size(region.size)}), object {region.capacity} bytes",
        "access": f"mode {region.mode:04o}, uid {region.uid}, gid {region.gid}",
        "protection": f"seal {region.seal}, backend {region.backend}",
        "leases": str(region.leases),
        "created": f"{created} by pid {region.creator_pid}",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def format_size(size: int) -> str:
    """Return a number of bytes in the unit that fits it: `4.0 KiB`."""
    value, units = float(size), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.1f} {units[0]}" if units[0] != "B" else f"{size} B"


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def main() -> None:
    """Run the command; an error of the project is one line and an exit code."""
    try:
        cli()
    except ShmError as error:
        print(f"shmhost: {error}", file=sys.stderr)
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
