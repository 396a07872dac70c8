"""The regions that the host keeps for references on their way, whose senders may be gone already. Pure.

A sender asks for it each time that it pickles a reference; a receiver says so when it opens the region by
one. In between the host has a lease in the sender's name, one for each user and region, which counts against
the leases of that user. It ends when as many references have arrived as were sent, or KEPT_S after the last
one was sent. Only the same user can say that one has arrived: others could end what is not theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.state_records import KeptRecord
from shmprotocol.errors import QuotaExceeded

KEPT_S = 600  # a task can wait so long in the queue of a busy pool
MAX_KEPT = 4096  # regions of a user; a lost reference takes † 0.6 KiB for KEPT_S


class _Kept:
    """A region that is kept for a user."""

    __slots__ = ("lease", "peer", "references", "region", "until_ns")

    def __init__(self, region: Region, peer: Peer, lease: int) -> None:
        self.region = region
        self.peer = peer  # the first sender
        self.lease = lease
        self.references = 0
        self.until_ns = 0


class Keeping:
    """All that is kept. `clock` is monotonic, in nanoseconds; `note` is called when there is something."""

    def __init__(self, registry: Registry) -> None:
        self.clock: Callable[[], int] = lambda: 0
        self.note: Callable[[], object] = lambda: None
        self._registry = registry
        self._kept: dict[tuple[int, int], _Kept] = {}  # by uid and region; in the order of their ends
        self._counts: Counter[int] = Counter()  # by uid

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, region: Region, peer: Peer) -> None:
        """Keep a region for one more reference. QuotaExceeded: too many of the user, or no lease is left."""
        key = peer.uid, region.number
        entry = self._kept.pop(key, None) or self._begin(region, peer)
        entry.references += 1
        entry.until_ns = self.clock() + KEPT_S * 10**9
        self._kept[key] = entry  # at the end
        self.note()

    def take(self, region: Region, uid: int) -> None:
        """Take note that a reference of a user to a region has arrived."""
        entry = self._kept.get((uid, region.number))
        if entry is None:  # it came late, or is read again
            return
        entry.references -= 1
        if not entry.references:
            self._end(entry)

    def next_end_ns(self) -> int | None:
        """Return when the first one is over; None if nothing is kept."""
        return next((entry.until_ns for entry in self._kept.values()), None)

    def expiring(self) -> Iterator[None]:
        """End what is over by now, one in each step."""
        now_ns = self.clock()
        while (end_ns := self.next_end_ns()) is not None and end_ns <= now_ns:
            self._end(next(iter(self._kept.values())))
            yield

    def record(self) -> tuple[KeptRecord, ...]:
        """Return all of it, for `resume`."""
        return tuple(
            [
                KeptRecord(
                    entry.region.number,
                    (entry.peer.uid, entry.peer.gid, entry.peer.pid, tuple(entry.peer.groups)),
                    entry.lease,
                    entry.region.leases[entry.lease][1],
                    entry.references,
                    entry.until_ns,
                )
                for entry in self._kept.values()
            ]
        )

    def resume(self, records: Iterable[KeptRecord]) -> None:
        """Keep what another host has kept, whatever the limits say."""
        for record in records:
            uid, gid, pid, groups = record.peer
            peer = Peer(uid, gid, pid, frozenset(groups))
            region = self._registry.regions[record.region]
            entry = self._kept[uid, record.region] = _Kept(region, peer, record.lease)
            entry.references, entry.until_ns = record.references, record.until_ns
            region.leases[record.lease] = peer, record.since_ns
            region.tally.leases += 1
            self._registry.accounts.of(uid).leases.add(1)
            self._counts[uid] += 1

    def _begin(self, region: Region, peer: Peer) -> _Kept:
        if self._counts[peer.uid] >= MAX_KEPT:
            raise QuotaExceeded(
                f"the host keeps at most {MAX_KEPT} regions of a user for references on their way, and uid "
                f"{peer.uid} has so many: have them opened, or keep the regions at the sender"
            )
        self._registry.accounts.of(peer.uid).leases.take(1)
        self._counts[peer.uid] += 1
        return _Kept(region, peer, self._registry.lease(region, peer))

    def _end(self, entry: _Kept) -> None:
        uid = entry.peer.uid
        del self._kept[uid, entry.region.number]
        self._counts[uid] -= 1
        if not self._counts[uid]:
            del self._counts[uid]
        self._registry.release(entry.region, entry.lease)
        self._registry.accounts.of(uid).leases.give(1)
