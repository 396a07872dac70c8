"""The commands that ask a running host about its regions: ls, stat, rm, who, map, top."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import rich_click as click
from rich.console import Console

from shmhost.commands.fleet import ask_fleet, file_option
from shmhost.commands.options import json_option, print_json
from shmhost.commands.views import arenas as arenas_view
from shmhost.commands.views import fleet as fleet_view
from shmhost.commands.views import map as map_view
from shmhost.commands.views import regions as regions_view
from shmhost.commands.views import users as users_view
from shmhost.commands.views import who as who_view
from shmhost.commands.views.contents import unpack
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.cli import manual, report
from shmprotocol.errors import (
    AccessDenied,
    BadRegion,
    HostGone,
    HostTimeout,
    InvalidArgument,
    QuotaExceeded,
    RegionNotFound,
    RemoteProtocolError,
    ShmError,
    exit_code,
)
from shmprotocol.kernel.status import describe
from shmprotocol.options import Seconds, complete_names, socket_option
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import check_name
from shmprotocol.wire.paths import socket_path
from shmprotocol.wire.query import Query


def _query(path: str | None) -> Query:
    return Query(socket_path(path, os.environ))


@click.command("ls", epilog=manual("shmhost ls models/", "shmhost ls --json | jq -r '.[].name'"))
@click.argument("prefix", default="", shell_complete=complete_names)
@socket_option
@json_option
def list_command(prefix: str, path: str | None, as_json: bool) -> None:
    """List the regions whose name starts with PREFIX, or the names in an arena: `shmhost ls camera/`."""
    with _query(path) as query:
        arena = query.arena_of(prefix) if "/" in prefix else None
        if arena is not None:
            _list_values(query, arena, prefix, as_json)
            return
        regions = list(query.regions(prefix))
    if as_json:
        print_json([regions_view.region_dict(region) for region in regions])
    else:
        Console().print(regions_view.region_table(regions))


def _list_values(query: Query, arena: m.RegionInfo, prefix: str, as_json: bool) -> None:
    clocks = arenas_view.clocks_now()
    rows = arenas_view.values_of(query, arena, prefix, clocks)
    if as_json:
        print_json(rows)
    else:
        Console().print(regions_view.value_table(rows, clocks.real_ns))


@click.command(epilog=manual("shmhost stat models/weights --json", "shmhost stat --fd 3 3< file"))
@click.argument("name", required=False, shell_complete=complete_names)
@click.option("--fd", type=int, metavar="N", help="An open descriptor that this command inherits.")
@socket_option
@json_option
def stat(name: str | None, fd: int | None, path: str | None, as_json: bool) -> None:
    """Show all that the host knows about region NAME, or the kernel about descriptor N (without a host).

    NAME may be that of a value in an arena.
    """
    if fd is not None and name is None:
        _print_descriptor(fd, as_json)
    elif name is not None and fd is None:
        _print_region(name, path, as_json)
    else:
        raise click.UsageError("Give either NAME or --fd N: exactly one of the two.")


def _print_region(name: str, path: str | None, as_json: bool) -> None:
    with _query(path) as query:
        try:
            region = query.stat(name)
        except RegionNotFound:
            arena = query.arena_of(name)
            if arena is None:
                raise
            _print_value(query, arena, name, as_json)
            return
        metadata = _metadata(query, region)
    if as_json:
        print_json(regions_view.region_dict(region) | {"metadata": metadata})
    else:
        Console().print(regions_view.stat_table(region, metadata))


def _metadata(query: Query, region: m.RegionInfo) -> dict[str, object] | None:
    """Return what its publisher says of a region; None of an arena, and of what this user may not open."""
    if region.kind == KIND_ARENA:
        return None
    try:
        return unpack(query.metadata(region.name))
    except (AccessDenied, BadRegion, QuotaExceeded, RegionNotFound):
        return None


def _print_value(query: Query, arena: m.RegionInfo, name: str, as_json: bool) -> None:
    clocks = arenas_view.clocks_now()
    row = arenas_view.value_of(query, arena, name, clocks)
    if row is None:
        raise RegionNotFound(
            f"the arena {arena.name!r} has no value of this name: see `shmhost ls {arena.name}/`"
        )
    if as_json:
        print_json(row)
    else:
        Console().print(regions_view.value_stat_table(row))


def _print_descriptor(fd: int, as_json: bool) -> None:
    try:
        status = describe(fd)
    except OSError as error:
        raise ShmError(f"--fd: {error.strerror}") from error
    if as_json:
        print_json(status.as_dict())
    else:
        print(status)


@click.command("rm", epilog=manual("shmhost rm models/old", "shmhost rm a b c"))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_names)
@socket_option
def remove(names: tuple[str, ...], path: str | None) -> None:
    """Unlink regions: names are gone at once, memory is freed with the last reader.

    If a region is not published yet, its creation ends, and its creator gets an error on publishing.

    A name that cannot be removed is reported, and those after it are removed all the same. The exit code is
    that of the first one that could not.
    """
    failures: list[ShmError] = []
    with _query(path) as query:
        for name in names:
            try:
                query.ask(m.Unlink(2, check_name(name)), m.Done)
            except (HostGone, HostTimeout, RemoteProtocolError):
                raise  # there is nobody to ask for the others
            except ShmError as error:
                report("shmhost", error)
                failures.append(error)
    if failures:
        sys.exit(exit_code(failures[0]))


@click.command(
    epilog=manual("shmhost who models/", "shmhost who --json | jq '.[] | .uid'", "shmhost who --users")
)
@click.argument("prefix", default="", shell_complete=complete_names)
@socket_option
@json_option
@click.option("--users", is_flag=True, help="Show what each user has of the host, and of which it has most.")
def who(prefix: str, path: str | None, as_json: bool, users: bool) -> None:
    """Show who holds the regions whose name starts with PREFIX: uid, process, container, and for how long.

    The table has all generations that are in use, of the regions that you may read; and of arenas the values
    that clients say they use. The pid of a process in another container is 0.
    """
    if users:
        _print_users(path, as_json)
        return
    with _query(path) as query:
        rows = who_view.who_rows(query.inspect(prefix))
        rows += _holds(query, prefix)
    if as_json:
        print_json(rows)
    else:
        console = Console()
        console.print(who_view.who_table(rows, time.time_ns(), console.width))


def _print_users(path: str | None, as_json: bool) -> None:
    with _query(path) as query:
        uses = query.measure().uses
    if as_json:
        print_json(users_view.user_rows(uses))
    else:
        Console().print(users_view.user_table(uses))


def _holds(query: Query, prefix: str) -> list[dict[str, object]]:
    """Return the rows of `who` for the values of arenas, as far as this user may look."""
    clocks, rows = arenas_view.clocks_now(), list[dict[str, object]]()
    for info in query.arenas(prefix):
        with contextlib.suppress(AccessDenied, InvalidArgument):  # or it has gone meanwhile
            rows += arenas_view.hold_rows(query, info, clocks)
    return [row for row in rows if str(row["name"]).startswith(prefix)]


@click.command("map", epilog=manual("shmhost map", "shmhost map --svg window.svg"))
@socket_option
@json_option
@click.option(
    "--svg", "svg", type=click.Path(dir_okay=False, writable=True), help="Write an SVG to this file."
)
@file_option
def map_command(path: str | None, as_json: bool, svg: str | None, file: str | None) -> None:
    """Show the layout of the host's windows: all generations, to scale, and free addresses.

    With the file of a fleet, its slices come first, and who hands out of them.
    """
    hosts = ask_fleet(file) if file is not None else None
    with _query(path) as query:
        regions = [inspection.info for inspection in query.inspect("")]
        windows = query.windows()
    if svg is not None:
        Path(svg).write_text(map_view.map_svg(windows, regions), encoding="utf-8")
    elif as_json:
        fleet = {} if hosts is None else {"fleet": hosts}
        rows = [regions_view.region_dict(info) for info in regions]
        print_json({"windows": windows, "regions": rows, **fleet})
    else:
        console = Console()
        for line in fleet_view.slice_lines(hosts or ()):
            console.print(line, soft_wrap=True)
        for window in windows:
            for line in map_view.map_lines(window, regions, console.width):
                console.print(line, no_wrap=True, crop=True)


@click.command(epilog=manual("shmhost top", "shmhost top --sort rate", "shmhost top --json --interval 5"))
@socket_option
@click.option("--interval", type=Seconds(0.1, 3600), default=1.0, metavar="SECONDS", help="Default: 1.")
@click.option("--sort", type=click.Choice(["name", "size", "leases", "generation", "rate"]), default="name")
@json_option
@click.option("--once", is_flag=True, help="Print the view once and exit, as without a terminal.")
def top(path: str | None, interval: float, sort: str, as_json: bool, once: bool) -> None:
    """Show the activity of a host, live: requests, memory, users and regions.

    Keys: n, s, l, g, t sort by name, size, leases, generation, rate; the same key again reverses the order.
    / filters by a part of the name, Escape shows all; arrows, pages, Home and End scroll; q quits.
    Rates cover the last interval; --json and --once wait for one interval.
    """
    from shmhost.commands.top.live import run

    run(socket_path(path, os.environ), interval, sort, as_json=as_json, once=once)


COMMANDS = (list_command, stat, remove, who, map_command, top)
