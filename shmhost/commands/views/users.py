"""The table of `who --users`: what each user has of the resources, and the one it has nearly all of."""

from __future__ import annotations

import pwd
from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from shmhost.commands.text import format_size, printable
from shmprotocol.wire import messages as m

NO_LIMIT = 2**64 - 1
SIZES = ("bytes", "addresses")
COLUMNS = ("regions", "leases", "connections", "descriptors")


def user_rows(uses: Iterable[m.Use]) -> list[dict[str, object]]:
    """Return a row for each user, as in JSON: for each resource what is used, and the most it may have."""
    rows: dict[int, dict[str, object]] = {}
    for use in uses:
        row = rows.setdefault(use.uid, {"uid": use.uid, "user": _name_of(use.uid)})
        row[use.resource] = {"used": use.used, "most": None if use.most == NO_LIMIT else use.most}
    return list(rows.values())


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return ""


def user_table(uses: Sequence[m.Use]) -> Table:
    """Return the table, at most 80 columns wide."""
    table = Table("user", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].min_width = 10
    for title in ("bytes", "regions", "leases", "conns", "fds", "fullest"):
        table.add_column(title, justify="right", no_wrap=True)
    for uid in dict.fromkeys(use.uid for use in uses):
        own = {use.resource: use for use in uses if use.uid == uid}
        used = {resource: use.used for resource, use in own.items()}
        numbers = [str(used.get(resource, 0)) for resource in COLUMNS]
        user = printable(_name_of(uid) or str(uid))
        table.add_row(user, format_size(used.get("bytes", 0)), *numbers, fullest(own.values()))
    return table


def fullest(uses: Iterable[m.Use]) -> str:
    """Return the resource of which a user has the largest part of what it may have, such as `bytes 93%`."""
    parts = [(use.used / use.most if use.most else 1.0, use.resource) for use in uses if use.used]
    part, resource = max(parts, default=(0.0, ""))
    return f"{resource} {int(part * 100)}%" if resource else ""
