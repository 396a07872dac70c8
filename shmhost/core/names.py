"""The order of names, what may lie below what, and who may take one. Pure.

An arena has names of its own below it, which are its owner's: so no region and no other arena may be there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import islice

from shmhost.core.peers import Peer
from shmhost.core.regions import WRITE, Region, name_taken
from shmprotocol.errors import RegionBusy, RegionExists
from shmprotocol.wire.names import State


def page(names: Sequence[str], prefix: str, after: str, limit: int) -> tuple[list[str], bool]:
    """Return, of sorted names, up to `limit` with this prefix after a name, and whether there are more."""
    start = bisect_left(names, prefix)
    if after:
        start = max(start, bisect_right(names, after))
    chosen: list[str] = []
    for name in islice(names, start, None):
        if not name.startswith(prefix) or len(chosen) > limit:
            break
        chosen.append(name)
    return chosen[:limit], len(chosen) > limit


def check_below(names: Sequence[str], regions: Mapping[str, Region], name: str, peer: Peer) -> None:
    """Raise RegionExists if one of sorted names lies below a name, which an arena of a peer is to have.

    AccessDenied if the peer may not see it.
    """
    below, _ = page(names, f"{name}/", "", 1)
    if not below:
        return
    if not regions[below[0]].is_visible(peer):
        raise name_taken(name, peer)
    raise RegionExists(
        f"{below[0]!r} exists, and the names below the arena {name!r} are to be its own: unlink it, or "
        "choose another name"
    )


def arena_over(name: str, regions: Mapping[str, Region]) -> Region | None:
    """Return the arena among regions by name that a name lies below, None if it lies in none."""
    end = name.find("/")
    while end > 0:
        region = regions.get(name[:end])
        if region is not None and region.arena is not None:
            return region
        end = name.find("/", end + 1)
    return None


def check_above(name: str, regions: Mapping[str, Region], peer: Peer) -> None:
    """Raise RegionExists, or RegionBusy, if a name lies below an arena among regions by name.

    AccessDenied if the peer may not see that.
    """
    arena = arena_over(name, regions)
    if arena is None:
        return
    if not arena.is_visible(peer):
        raise name_taken(name, peer)
    owner = f"uid {arena.owner.uid}, pid {arena.owner.pid}"
    if arena.state is State.CREATING:
        raise RegionBusy(f"{name!r} lies below the arena {arena.name!r}, which {owner} is creating")
    raise RegionExists(
        f"{name!r} lies below the arena {arena.name!r}, whose owner ({owner}) gives the names there: choose "
        "another name, or unlink the arena"
    )


def check_free(name: str, peer: Peer, rival: Region | None, older: Region | None, *, replace: bool) -> None:
    """Refuse a name that a `rival` has, which is being created, or an `older` one that stays."""
    if rival is not None and not rival.is_visible(peer):
        raise name_taken(name, peer)
    if older is not None and not older.is_visible(peer) and not (replace and older.allows(peer, WRITE)):
        raise name_taken(name, peer)
    if rival is not None:
        raise RegionBusy(
            f"{name!r} is being created by uid {rival.owner.uid}, pid {rival.owner.pid}: "
            "try again when that is published or given up, or end it by `shmhost rm`"
        )
    if older is None:
        return
    if not replace:
        raise RegionExists(
            f"{name!r} exists (generation {older.generation}): choose another name, or replace it"
        )
    older.check(peer, WRITE)
