"""One transfer: which chunk to ask whom for next. Pure; who has the chunks, and who waits, is elsewhere.

A host that asks gives the credit: of each source only so many chunks are under way, over all transfers, so a
slow link holds no more memory than these on either side. A source that sends a wrong chunk is asked no more.
A large region is asked for with one chunk first, as it may be the turn of others at that source (`turns`).
Chunks may come before the hashes that they should have: they are compared later, and none counts till then.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from shmhost.fleet.hashing import chunk_count, part, root_of
from shmhost.fleet.turns import TURNS_FROM
from shmprotocol.tuples import NamedTuple

MAX_SOURCES = 8  # of one transfer, chosen by chance: more would not be faster
MAX_TRIED = 16  # sources, with those that were asked in vain: many that wait must not ask all of many
REFUSED_S = (
    5.0  # after which a source is asked again that has said that it has no copy; it may have one by then
)
BUSY_S = 0.5, 1.0  # after which a source is asked again that was busy with others


class Credits:
    """The chunks that are under way from each source."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used: Counter[str] = Counter()

    def take(self, source: str) -> bool:
        """Take a credit; False: the source has none left."""
        if self.used[source] >= self.limit:
            return False
        self.used[source] += 1
        return True

    def give(self, source: str) -> None:
        """Give a credit back."""
        self.used[source] -= 1
        if self.used[source] <= 0:
            del self.used[source]


class Step(NamedTuple):
    """Ask a source for a chunk."""

    number: int
    source: str


@dataclass(eq=False, slots=True)
class Transfer:
    """The chunks of one payload that are missing, under way, and here."""

    size: int
    leaves: list[bytes] | None  # None: not known yet
    credits: Credits
    sources: set[str] = field(default_factory=set)
    banned: set[str] = field(default_factory=set)  # have sent something else than they should
    missing: deque[int] = field(default_factory=deque)
    under_way: dict[int, str] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)  # by source: chunks that it has not sent
    bytes_here: int = 0
    is_ended: bool = False
    seed: str = ""  # by which each host chooses others
    busy: dict[str, float] = field(default_factory=dict)  # sources, and when they are asked again
    proven: set[str] = field(default_factory=set)  # sources that have sent a chunk
    # By number: the hash and the source of what came before the leaves were known.
    unproven: dict[int, tuple[bytes, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.missing.extend(range(chunk_count(self.size)))

    @property
    def is_here(self) -> bool:
        """Whether all chunks are here, be they right or wrong."""
        return self.bytes_here == self.size

    @property
    def is_whole(self) -> bool:
        """Whether all chunks are here, and right."""
        return self.is_here and self.leaves is not None

    def prove(self, tree: bytes) -> bool:
        """Compare all that is here with the hash of the payload; True: it is right."""
        leaves = [self.unproven[number][0] for number in range(chunk_count(self.size))]
        if root_of(self.size, leaves) != tree:
            return False
        self.compare(leaves)
        return True

    def compare(self, leaves: list[bytes]) -> set[str]:
        """Take the hashes of the chunks; return the sources of wrong ones, which are asked no more."""
        self.leaves = leaves
        wrong = [number for number, (digest, _) in self.unproven.items() if digest != leaves[number]]
        sources = self.drop(wrong)
        self.unproven.clear()
        return sources

    def drop(self, numbers: Iterable[int]) -> set[str]:
        """Forget wrong chunks; return their sources, which are asked no more."""
        sources = set()
        for number in numbers:
            _, source = self.unproven.pop(number)
            self.bytes_here -= part(self.size, number)[1]
            self.missing.append(number)
            self.ban(source)
            sources.add(source)
        return sources

    def add(self, source: str) -> None:
        """A host has the payload."""
        is_free = len(self.sources) < MAX_SOURCES and len(self.sources) + len(self.busy) < MAX_TRIED
        if source not in self.banned and source not in self.busy and is_free:
            self.sources.add(source)

    def rest(self, source: str, until_s: float) -> None:
        """A source sends nothing now, and is not asked for a while."""
        self.busy[source] = until_s
        self.sources.discard(source)

    def refresh(self, sources: Iterable[str], now_s: float) -> None:
        """Take the hosts that have the payload now."""
        for source in [source for source, until_s in self.busy.items() if until_s <= now_s]:
            del self.busy[source]
        for source in sorted(sources, key=self._rank):
            self.add(source)

    def remove(self, source: str) -> None:
        """A host has gone, or has the payload no more."""
        self.sources.discard(source)

    def next(self) -> Step | None:
        """Return what to ask for next, and whom; None: wait.

        That is the source that has failed least: one that has the payload no more must not be asked for ever.
        Of several, it is that with the fewest chunks under way.
        """
        if self.is_ended or not self.missing:
            return None
        used, failures, rank = self.credits.used, self.failures, self._rank
        for source in sorted(self.sources, key=lambda each: (failures[each], used[each], rank(each))):
            if self._may_ask(source) and self.credits.take(source):
                index = self.missing.popleft()
                self.under_way[index] = source
                return Step(index, source)
        return None

    def _may_ask(self, source: str) -> bool:
        """Whether a source may get one more question: it has sent a chunk, or is not asked yet."""
        is_proven = self.size < TURNS_FROM or source in self.proven
        return is_proven or source not in self.under_way.values()

    def _rank(self, source: str) -> int:
        return zlib.crc32(f"{self.seed}{source}".encode())

    def arrive(self, step: Step, size: int, digest: bytes) -> bool:
        """Take a chunk by its size and hash; False: it is wrong, and its source is not asked again."""
        self._end(step)
        if not self.is_right(step, size, digest):
            self.missing.appendleft(step.number)
            self.ban(step.source)
            return False
        if self.leaves is None:
            self.unproven[step.number] = digest, step.source
        self.proven.add(step.source)
        self.bytes_here += size
        return True

    def is_right(self, step: Step, size: int, digest: bytes) -> bool:
        """Whether a chunk is what was asked for, as far as that is known."""
        is_right = self.leaves is None or digest == self.leaves[step.number]
        return is_right and size == part(self.size, step.number)[1]

    def fail(self, step: Step) -> None:
        """A source has not sent a chunk: it is asked for again."""
        self._end(step)
        self.failures[step.source] += 1
        self.missing.appendleft(step.number)

    def ban(self, source: str) -> None:
        """Never ask a source again."""
        self.sources.discard(source)
        self.banned.add(source)

    def _end(self, step: Step) -> None:
        del self.under_way[step.number]
        self.credits.give(step.source)
