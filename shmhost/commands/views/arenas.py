"""The content of arenas, for `ls`, `stat` and `who`: rows from what the host and the arenas' owners say.

Owners and clients can say anything; what they say is shown, and nothing else comes of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.text import Text

from shmhost.commands.text import format_size
from shmhost.commands.views.contents import unpack
from shmhost.commands.views.who import holder_row
from shmhost.machine.arena_names import Value, metadata_of, values_in
from shmprotocol.errors import BadRegion
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.messages import Hold, RegionInfo
from shmprotocol.wire.query import Query

OLDER = "?"  # in place of a name: a value that is no longer in the arena's records


class Clocks(NamedTuple):
    """CLOCK_REALTIME and CLOCK_MONOTONIC at one moment: in arenas and ledgers stands the second."""

    real_ns: int
    monotonic_ns: int

    def as_real(self, monotonic_ns: int) -> int:
        """Return a moment of the past by CLOCK_REALTIME; one that is none is now."""
        past_ns = self.monotonic_ns - monotonic_ns
        return self.real_ns - past_ns if 0 <= past_ns <= self.monotonic_ns else self.real_ns


def clocks_now() -> Clocks:
    """Return what both clocks say."""
    return Clocks(time.time_ns(), time.clock_gettime_ns(time.CLOCK_MONOTONIC))


def summary(info: RegionInfo) -> str:
    """Return what `ls` says of an arena beside its name."""
    arena = info.arena
    noun = "name" if arena.names == 1 else "names"
    owner = "" if arena.has_owner else ", no owner"
    return f"{arena.names} {noun}, {format_size(arena.value_bytes)}{owner}"


def values_of(query: Query, info: RegionInfo, prefix: str, clocks: Clocks) -> list[dict[str, object]]:
    """Return a row for each current value below an arena whose name starts with a prefix, sorted by name."""
    arena, _ = query.survey(info.region)
    try:
        values = [value for value in values_in(arena[0]) if value.is_current]
    finally:
        arena.close()
    rows = [_value_row(info, value, clocks) for value in values]
    meant = [row for row in rows if str(row["name"]).startswith(prefix)]
    return sorted(meant, key=lambda row: str(row["name"]))


def value_of(query: Query, info: RegionInfo, name: str, clocks: Clocks) -> dict[str, object] | None:
    """Return the row of one value, with its metadata; None: the arena has none of this name."""
    arena, _ = query.survey(info.region)
    try:
        for value in values_in(arena[0]):
            if value.is_current and f"{info.name}/{value.name}" == name:
                metadata = unpack(metadata_of(arena[0], value))
                return _value_row(info, value, clocks) | {"metadata": metadata}
    finally:
        arena.close()
    return None


def _value_row(info: RegionInfo, value: Value, clocks: Clocks) -> dict[str, object]:
    return {
        "name": f"{info.name}/{value.name}",
        "arena": info.name,
        "generation": value.generation,
        "address": info.address + value.block,
        "size": value.size,
        "uid": info.uid,
        "mode": info.mode,
        "published_ns": clocks.as_real(value.published_ns),
    }


def hold_rows(query: Query, info: RegionInfo, clocks: Clocks) -> list[dict[str, object]]:
    """Return a row for each value that a client holds, as those of `who`; the oldest first."""
    arena, holds = query.survey(info.region)
    try:
        names = _names_by_block(values_in(arena[0]))
    except BadRegion:
        names = {}  # its owner writes what it likes there; that somebody holds it is true all the same
    finally:
        arena.close()
    rows = [_hold_row(info, hold, names.get(hold.block - info.address), clocks) for hold in holds]
    return sorted(rows, key=lambda row: int(str(row["since_ns"])))


def _names_by_block(values: Iterable[Value]) -> dict[int, Value]:
    """Return values by the offset of their block; a current one goes before an older one."""
    by_block: dict[int, Value] = {}
    for value in values:
        if value.is_current or value.block not in by_block:
            by_block[value.block] = value
    return by_block


def _hold_row(info: RegionInfo, hold: Hold, value: Value | None, clocks: Clocks) -> dict[str, object]:
    row: dict[str, object] = {
        "name": f"{info.name}/{value.name if value else OLDER}",
        "generation": value.generation if value else 0,
        "state": "current" if value and value.is_current else "superseded",
        "arena": info.name,
        "block": hold.block,
    }
    return row | holder_row(hold.uid, hold.gid, hold.pid, clocks.as_real(hold.since_ns))


def with_summary(name: Text, info: RegionInfo) -> Text:
    """Return the name of an arena, as the names in it begin, with its summary."""
    return name.append("/").append(f" {summary(info)}", style="dim")
