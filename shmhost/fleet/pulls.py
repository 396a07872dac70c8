"""The record of a transfer that is under way, and that of a copy that is here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from shmhost.core.regions import Region
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.transfers import Transfer
from shmprotocol.errors import QuotaExceeded

MS = 1_000_000
# Upper bounds in nanoseconds, 1 ms to 300 s: a small region takes some ms, and a source may be gone for long.
LAGS = tuple(step * MS for step in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000))


class Superseded(Exception):
    """A generation was replaced before it was copied: the next one is copied instead."""


@dataclass(eq=False, slots=True)
class Pull:
    """A transfer of one announcement: its task, and when it began by the clock of this host."""

    announcement: Announcement
    host: str  # the identity of the host that has announced it
    began_s: float
    task: asyncio.Task[None] | None = None
    next: Announcement | None = None  # a newer one, which is copied after this
    next_s: float = 0.0  # when that was announced
    refusing: set[str] = field(default_factory=set)  # the sources that do not have it any more
    transfer: Transfer | None = None
    broken: OSError | None = None  # why a chunk cannot be written here
    is_placed: bool = False  # it has its address and its charge
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def confirm(self, announcement: Announcement) -> bool:
        """Take the hash of what was announced early; False: this is another announcement."""
        if not announcement.confirms(self.announcement):
            return False
        self.announcement = announcement
        if self.next is not None and self.next.generation <= announcement.generation:
            self.next = None  # another mode, which this one has, too
        self.refusing.clear()
        self.changed.set()
        return True

    def is_older_than(self, announcement: Announcement) -> bool:
        """Whether an announcement is news, and not older than what is under way."""
        mine = self.announcement
        return mine.generation <= announcement.generation and mine != announcement


@dataclass(eq=False, slots=True)
class Replica:
    """A copy that is published here."""

    announcement: Announcement
    host: str
    region: Region
    leaves: list[bytes]
    lag_s: float  # from the announcement to its publish, by the clock of this host


def check_going_on(pull: Pull, sources: set[str]) -> None:
    """Raise QuotaExceeded if chunks cannot be written, Superseded if only newer ones can be copied."""
    if pull.broken is not None:
        text = f"this machine has no memory for {pull.announcement.name!r}: {pull.broken.strerror}"
        raise QuotaExceeded(f"{text}. Free some, or import less")
    if pull.next is None:
        return
    # The news of a host have an order: the hash of what it has replaced comes no more.
    is_unproven = pull.announcement.is_early and pull.next.generation > pull.announcement.generation
    if is_unproven or (sources and pull.refusing >= sources):
        raise Superseded


def is_of(replica: Replica, announcement: Announcement) -> bool:
    """Whether a replica is of this generation."""
    mine = replica.announcement
    is_same = mine.tree == announcement.tree or mine.is_early or announcement.is_early
    return mine.generation == announcement.generation and is_same
