"""The tables of `ls` and `stat`. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.commands.text import format_size, printable
from shmprotocol.wire.messages import RegionInfo


def region_table(regions: Iterable[RegionInfo]) -> Table:
    """Return the table of `ls`: at most 80 columns."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "address", "size", "leases", "mode", "uid"):
        table.add_column(column, justify="right", no_wrap=True)
    for region in regions:
        table.add_row(
            Text(printable(region.name)),
            str(region.generation),
            f"{region.address:#x}",
            format_size(region.size),
            str(region.leases),
            f"{region.mode:04o}",
            str(region.uid),
        )
    return table


def stat_table(region: RegionInfo) -> Table:
    """Return the table of `stat`: all facts about a region."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    created = datetime.fromtimestamp(region.created_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    rows = {
        "name": region.name,
        "generation": f"{region.generation} (region {region.region}, {region.state})",
        "address": f"{region.address:#x}",
        "size": f"{region.size} bytes ({format_size(region.size)}), capacity {region.capacity} bytes",
        "access": f"mode {region.mode:04o}, uid {region.uid}, gid {region.gid}",
        "protection": f"seal {region.seal}, backend {region.backend}",
        "leases": str(region.leases),
        "created": f"{created} by pid {region.creator_pid}",
    }
    for key, value in rows.items():
        table.add_row(key, Text(printable(value)))
    return table
