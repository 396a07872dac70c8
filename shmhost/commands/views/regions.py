"""The tables of `ls` and `stat`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.commands.text import age, format_size, printable
from shmhost.commands.views.arenas import summary, with_summary
from shmhost.commands.views.contents import content_of
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.wire.messages import RegionInfo


def region_dict(info: RegionInfo) -> dict[str, object]:
    """Return a region as in JSON: `arena` is null for other kinds."""
    return info._asdict() | {"arena": info.arena._asdict() if info.kind == KIND_ARENA else None}


def region_table(regions: Iterable[RegionInfo]) -> Table:
    """Return the table of `ls`: at most 80 columns."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "address", "size", "leases", "mode", "uid"):
        table.add_column(column, justify="right", no_wrap=True)
    for region in regions:
        name = Text(printable(region.name))
        table.add_row(
            with_summary(name, region) if region.kind == KIND_ARENA else name,
            str(region.generation),
            f"{region.address:#x}",
            format_size(region.size),
            str(region.leases),
            f"{region.mode:04o}",
            str(region.uid),
        )
    return table


def value_table(rows: Sequence[dict[str, object]], now_ns: int) -> Table:
    """Return the table of `ls` for the names in an arena: at most 80 columns."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "address", "size", "age"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        address, size, since_ns = (int(str(row[key])) for key in ("address", "size", "published_ns"))
        table.add_row(
            Text(printable(str(row["name"]))),
            str(row["generation"]),
            f"{address:#x}",
            format_size(size),
            age(since_ns, now_ns),
        )
    return table


def stat_table(region: RegionInfo, metadata: dict[str, object] | None) -> Table:
    """Return the table of `stat`: all facts about a region."""
    rows = {
        "name": region.name,
        "generation": f"{region.generation} (region {region.region}, {region.state})",
        "address": f"{region.address:#x}",
        "content": "an arena" if region.kind == KIND_ARENA else content_of(metadata),
        "size": f"{region.size} bytes ({format_size(region.size)}), capacity {region.capacity} bytes",
        "access": f"mode {region.mode:04o}, uid {region.uid}, gid {region.gid}",
        "protection": f"seal {region.seal}, backend {region.backend}",
        "leases": str(region.leases),
        "created": f"{_time(region.created_ns)} by pid {region.creator_pid}",
    }
    if region.kind == KIND_ARENA:
        arena = region.arena
        rows["arena"] = f"{summary(region)}; {arena.values} values published so far"
        rows["span"] = f"{arena.span} bytes ({format_size(arena.span)}): so far it may grow"
        clients = "client" if arena.ledgers == 1 else "clients"
        rows["ledgers"] = f"{arena.ledgers} {clients} may hold values (`shmhost who {region.name}`)"
    return _facts(rows)


def value_stat_table(row: dict[str, object]) -> Table:
    """Return the table of `stat` for a value in an arena."""
    size, mode, metadata = int(str(row["size"])), int(str(row["mode"])), row["metadata"]
    return _facts(
        {
            "name": str(row["name"]),
            "generation": str(row["generation"]),
            "address": f"{int(str(row['address'])):#x}",
            "content": content_of(metadata if isinstance(metadata, dict) else None),
            "size": f"{size} bytes ({format_size(size)})",
            "access": f"mode {mode:04o}, uid {row['uid']}: those of the arena",
            "published": _time(int(str(row["published_ns"]))),
            "arena": f"{row['arena']} (`shmhost who {row['arena']}` shows who holds values)",
        }
    )


def _time(real_ns: int) -> str:
    return datetime.fromtimestamp(real_ns / 1e9, UTC).isoformat(timespec="milliseconds")


def _facts(rows: dict[str, str]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, Text(printable(value)))
    return table
