"""Changes of names, as each client may see them. Pure.

A client hears only of names that it may read. One whose right to read comes or goes with a change sees the
name come or go.
"""

from __future__ import annotations

from shmhost.core.peers import Peer
from shmhost.core.regions import Region, sees
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, State


class News(NamedTuple):
    """A change of a name: its region before and after, None if there was none, or None is left."""

    kind: ChangeKind
    before: m.RegionInfo | None
    after: m.RegionInfo | None

    def seen_by(self, peer: Peer) -> tuple[ChangeKind, m.RegionInfo] | None:
        """Return the change that a peer sees, and the region that it is told of; None: it sees none."""
        was_seen = self.before is not None and sees(peer, self.before)
        if self.after is not None and sees(peer, self.after):
            return (self.kind if was_seen else ChangeKind.PUBLISHED), self.after
        if self.before is None or not was_seen:
            return None
        return ChangeKind.UNLINKED, self.before._replace(state=State.UNLINKED)


def news_of(kind: ChangeKind, region: Region, before: m.RegionInfo | None) -> News:
    """Return the news of a change of a region, which has been made; `before` is what it was, or replaced."""
    info = region.info()
    return gone(info) if kind is ChangeKind.UNLINKED else News(kind, before, info)


def gone(info: m.RegionInfo) -> News:
    """Return the news that the name of a region is gone."""
    return News(ChangeKind.UNLINKED, info, None)


def replaced(older: Region | None, region: Region) -> m.RegionInfo | None:
    """Return the info of a region that is about to be replaced, if not all its readers may see the next."""
    if older is None or (older.owner.uid, older.owner.gid, older.mode) == (
        region.owner.uid,
        region.owner.gid,
        region.mode,
    ):
        return None
    return older.info()
