"""The command `shmhost`: starts a host, and shows what one holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import rich_click as click
from rich import box
from rich.console import Console
from rich.table import Table

from shmhost import logs, settings
from shmhost.config import Config
from shmhost.doctor import as_json as doctor_json
from shmhost.doctor import doctor_table, examine, is_healthy
from shmhost.notify import Notifier, take_listener
from shmhost.query import Query
from shmhost.server import Host, backend_options
from shmhost.views import format_size, map_lines, map_svg, who_rows, who_table
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


def setting_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the settings of a host."""
    options = (
        socket_option,
        click.option("--socket-mode", metavar="OCTAL", help="Who may connect. Default: 660."),
        click.option(
            "--window",
            multiple=True,
            metavar="BASE:SIZE",
            help="Addresses to hand out, as 0x550000000000:256G; the next one is used when one is full.",
        ),
        click.option("--budget", metavar="SIZE", help="Memory to give out at most. Default: 80% of it."),
        click.option("--log-format", metavar="text|json", help="How the log is written. Default: text."),
        click.option(
            "--log-level", metavar="info|warning", help="From what on to log. Default: info, each change."
        ),
        click.option(
            "--metrics",
            metavar="ADDRESS",
            help="Serve Prometheus metrics here, as 127.0.0.1:9464 or a path. Default: nowhere.",
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Settings in TOML. Default: $SHMHOST_CONFIG, or /etc/shmhost/shmhost.toml if it is there.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _settings(
    path: str | None,
    socket_mode: str | None,
    window: tuple[str, ...],
    budget: str | None,
    log_format: str | None,
    log_level: str | None,
    metrics: str | None,
    file: Path | None,
) -> dict[str, settings.Setting]:
    flags = {
        "socket": path,
        "socket_mode": socket_mode,
        "budget": budget,
        "log_format": log_format,
        "log_level": log_level,
        "metrics": metrics,
    }
    given = {name: (text,) for name, text in flags.items() if text is not None} | {"window": window}
    return settings.collect(given, os.environ, file)


@cli.command()
@setting_options
def serve(**options: Any) -> None:
    """Run a host until SIGTERM or Ctrl-C.

    Each option can also be set as $SHMHOST_NAME, or in a TOML file; see `shmhost config`.
    Example: shmhost serve --socket /tmp/shm.sock --budget 4G
    """
    config = settings.to_config(_settings(**options))
    logs.configure(config.log_format, config.log_level)
    # Before the loop opens descriptors: one of its own could pass for the inherited one.
    listener = take_listener(os.environ, os.getpid())
    anyio.run(_serve, config, listener, backend_options=backend_options())


@cli.command("config")
@setting_options
@json_option
def config_command(as_json: bool, **options: Any) -> None:
    """Show the settings that `serve` would run with, and where each comes from.

    A flag comes before $SHMHOST_SOCKET, $SHMHOST_SOCKET_MODE, $SHMHOST_WINDOW, $SHMHOST_BUDGET,
    $SHMHOST_LOG_FORMAT, $SHMHOST_LOG_LEVEL and $SHMHOST_METRICS, and these before the TOML file, which has
    the same names.

    Example: shmhost config --budget 4G
    """
    found = _settings(**options)
    values = settings.shown(settings.to_config(found))
    if as_json:
        _print_json({name: {"value": values[name], "source": found[name].source} for name in values})
        return
    table = Table("setting", "value", "from", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in values.items():
        table.add_row(name, value.replace(",", "\n"), found[name].source)
    Console().print(table)


@cli.command()
@setting_options
@json_option
def doctor(as_json: bool, **options: Any) -> None:
    """Check what this machine, this process and the socket have for a host, and say what to do.

    Give it the settings of the host in question. A note is no problem; exit code 1 if there is one.

    Example: shmhost doctor --socket /run/shmhost/host.sock
    """
    findings = examine(settings.to_config(_settings(**options)))
    if as_json:
        _print_json(doctor_json(findings))
    else:
        Console().print(doctor_table(findings))
    sys.exit(0 if is_healthy(findings) else 1)


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
@click.argument("prefix", default="")
@socket_option
@json_option
def who(prefix: str, path: str | None, as_json: bool) -> None:
    """Show who holds the regions whose name starts with PREFIX: uid, process, container, and for how long.

    All generations that still live are shown, of regions that you may read. Example: shmhost who models/
    """
    with Query(socket_path(path, os.environ)) as query:
        rows = who_rows(query.inspect(prefix))
    if as_json:
        _print_json(rows)
    else:
        Console().print(who_table(rows, time.time_ns()))


@cli.command("map")
@socket_option
@json_option
@click.option("--svg", "svg", type=click.Path(dir_okay=False, writable=True), help="Write a picture here.")
def map_command(path: str | None, as_json: bool, svg: str | None) -> None:
    """Show what lies where in the host's windows: regions of all generations, to scale, and free addresses.

    Example: shmhost map --svg window.svg
    """
    with Query(socket_path(path, os.environ)) as query:
        regions = [found.info for found in query.inspect("")]
        windows = query.windows()
    if svg is not None:
        Path(svg).write_text(map_svg(windows, regions), encoding="utf-8")
    elif as_json:
        _print_json({"windows": windows, "regions": [info._asdict() for info in regions]})
    else:
        console = Console()
        for window in windows:
            for line in map_lines(window, regions, console.width):
                console.print(line, no_wrap=True, crop=True)


@cli.command()
@socket_option
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, metavar="SECONDS", help="Default: 1."
)
@click.option("--sort", type=click.Choice(["name", "size", "leases", "generation", "rate"]), default="name")
@json_option
@click.option("--once", is_flag=True, help="Print the view once, as without a terminal.")
def top(path: str | None, interval: float, sort: str, as_json: bool, once: bool) -> None:
    """Show what happens in a host, live: requests, memory, users and regions. Press h for the keys.

    Rates are of the last interval; --json and --once wait for one. Example: shmhost top --sort rate
    """
    from shmhost._live import run  # the one part that needs a terminal

    run(socket_path(path, os.environ), interval, sort, as_json=as_json, once=once)


@cli.command()
@click.argument("word", required=False)
def demo(word: str | None) -> None:
    """Index Python's standard library in a region and read it from Python and C, by the same pointers.

    With WORD: print where it occurs. Example: shmhost demo memoryview
    """
    from shmhost.demo.run import demo as run_demo  # the one part that needs the client library

    sys.exit(run_demo(word, Console()))


async def _serve(config: Config, listener: socket.socket | None) -> None:
    host = Host(config, listener, Notifier(os.environ, os.getpid()))
    for end in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(end, host.stop)
    await host.serve()


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
