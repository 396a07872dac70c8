"""The table of `who`: holders, with the names and containers that /proc has of their processes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from shmhost.commands.text import age, printable
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.messages import Inspection
from shmprotocol.wire.names import State


class Process(NamedTuple):
    """A process as /proc of this machine shows it: empty if it does not, as for other PID namespaces."""

    name: str
    container: str
    command: str = ""  # the whole line, as a shell would take it


_BESIDE = 64  # columns for all but the command: a name of 20 characters is not folded
LINE_MAX = 4096  # bytes of a command line that are read


def process_of(pid: int, proc: Path = Path("/proc")) -> Process:
    """Return name, container and command line; the container is the first 12 digits of its id."""
    try:
        name = (proc / str(pid) / "comm").read_text(errors="replace").strip()
        group = (proc / str(pid) / "cgroup").read_text(errors="replace")
        with (proc / str(pid) / "cmdline").open("rb") as file:
            words = file.read(LINE_MAX).rstrip(b"\0").split(b"\0")
    except OSError:
        return Process("", "")
    container = re.search(r"(?:docker|libpod|containerd|crio)[-/:]*([0-9a-f]{12})[0-9a-f]{52}", group)
    command = shlex.join(word.decode(errors="replace") for word in words if words != [b""])
    return Process(name, container[1] if container else "", command)


def short_command(command: str, name: str, width: int) -> str:
    """Return the start of a command line in at most `width` characters: program and script without folders.

    In front is the name of a process that gave itself another one, or has no command line.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # its end is cut off
        words = command.split(" ")
    words[:2] = [word.rstrip("/").rpartition("/")[2] for word in words[:2]]
    if not any(word.startswith(name) for word in words[:2]):  # the kernel keeps 15 bytes of it
        words.insert(0, f"{name}:" if words else name)
    text = printable(" ".join(words))
    return text if len(text) <= width else f"{text[: width - 1]}…"


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
    about = {"process": process.name, "command": process.command, "container": process.container}
    return row | about | {"since_ns": since_ns}


def who_table(rows: Sequence[dict[str, object]], now_ns: int, width: int = 80) -> Table:
    """Return the table of `who`, with as much of the command lines as fits beside the rest."""
    table = Table("name", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in ("gen", "uid", "pid", "command", "container", "for"):
        table.add_column(
            column, justify="left" if column in ("command", "container") else "right", no_wrap=True
        )
    for row in rows:
        name = Text(printable(str(row["name"])), style="" if row["state"] == State.CURRENT else "dim")
        if row["state"] != State.CURRENT:
            name.append(f" ({row['state']})")
        if "uid" not in row:
            table.add_row(name, str(row["generation"]), "", "", "nobody", "", "")
            continue
        since = age(int(str(row["since_ns"])), now_ns)
        values = [str(row[key]) for key in ("generation", "uid", "pid")]
        command = short_command(str(row["command"]), str(row["process"]), max(width - _BESIDE, 16))
        # A process chooses its name and its command line itself.
        table.add_row(name, *values, Text(printable(command)), Text(str(row["container"])), since)
    return table
