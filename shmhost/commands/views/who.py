"""The table of `who`: holders, with the names and containers that /proc has of their processes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.commands.text import age, printable
from shmprotocol.wire.messages import Inspection
from shmprotocol.wire.names import State


class Process(NamedTuple):
    """A process as /proc of this machine shows it: empty if it does not, as for other PID namespaces."""

    name: str
    container: str


def process_of(pid: int, proc: Path = Path("/proc")) -> Process:
    """Return name and container of a process; the container is the first 12 digits of its id."""
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
        group = (proc / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return Process("", "")
    container = re.search(r"(?:docker|libpod|containerd|crio)[-/:]*([0-9a-f]{12})[0-9a-f]{52}", group)
    return Process(name, container[1] if container else "")


def who_rows(inspections: Iterable[Inspection]) -> list[dict[str, object]]:
    """Return a row for each lease, as in JSON; a region without leases has one row, without a holder."""
    rows: list[dict[str, object]] = []
    for info, holders in inspections:
        region = {"name": info.name, "generation": info.generation, "state": info.state}
        rows += [region | holder_row(h.uid, h.gid, h.pid, h.since_ns) for h in holders] or [region]
    return rows


def holder_row(uid: int, gid: int, pid: int, since_ns: int) -> dict[str, object]:
    """Return what a row says of a holder."""
    process = process_of(pid)
    row: dict[str, object] = {"uid": uid, "gid": gid, "pid": pid}
    return row | {"process": process.name, "container": process.container, "since_ns": since_ns}


def who_table(rows: Sequence[dict[str, object]], now_ns: int) -> Table:
    """Return the table of `who`: at most 80 columns."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "uid", "pid", "process", "container", "for"):
        table.add_column(
            column, justify="left" if column in ("process", "container") else "right", no_wrap=True
        )
    for row in rows:
        name = Text(printable(str(row["name"])), style="" if row["state"] == State.CURRENT else "dim")
        if row["state"] != State.CURRENT:
            name.append(f" ({row['state']})")
        if "uid" not in row:
            table.add_row(name, str(row["generation"]), "", "", "nobody", "", "")
            continue
        since = age(int(str(row["since_ns"])), now_ns)
        keys = ("generation", "uid", "pid", "process", "container")
        values = (Text(printable(str(row[key]))) for key in keys)  # a process chooses its name itself
        table.add_row(name, *values, since)
    return table
