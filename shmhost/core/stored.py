"""The store of a service manager, for the next host: objects of current regions, so that names live. Pure.

Each is an entry there, with a name of its own. The order of changes: what must go goes first, since it takes
up memory that nobody is charged for, and a place. Names that change during a round of changes are left to the
next one: one that is replaced again and again is looked at once a round, so that most of its generations are
never sent. A place is charged to the owner of the region.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

from shmhost.core.lent import Lent
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.shares import Share
from shmprotocol.tuples import NamedTuple

# The names of all entries come back in one variable of the environment, which has at most 128 KiB
# (MAX_ARG_STRLEN, execve(2)): over that, no host could be started any more. An entry takes 15 bytes at most,
# with its colon, and the rest is for the names of others.
MAX_STORED = 8192
_ENTRY = re.compile("r[1-9a-f][0-9a-f]{0,12}")


class Change(NamedTuple):
    """A change of the store: an entry to add, with a region whose object it is, or to remove."""

    entry: str
    region: Region | None


class Stored:
    """The entries of a store, as far as the manager was told, and the names whose entries may have to change.

    `wake` is called when there is something to do, after there was nothing.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._pool = registry.accounts.stored
        self._there: dict[str, tuple[int, Share]] = {}  # by the region's name: its number, and who bears it
        # As large as there are names, even if the manager takes nothing. A dict is slow to pop its first key.
        self._touched: OrderedDict[str, None] = OrderedDict()  # in this round
        self._waiting: OrderedDict[str, None] = OrderedDict()  # for the next one
        self._left_out: OrderedDict[str, None] = OrderedDict()  # names that had no place
        self._strays: list[str] = []  # entries that must go
        self.lent: Lent = Lent()
        self.wake: Callable[[], None] = lambda: None

    @property
    def room(self) -> int:
        """How many entries there may be."""
        return self._pool.total

    def __len__(self) -> int:
        return len(self._there) + len(self._strays)

    @property
    def left_out(self) -> int:
        """How many names have no place."""
        return len(self._left_out)

    def open(self, room: int) -> None:
        """Have so much room, before there is anything."""
        self._pool.resize(min(room, MAX_STORED))

    def touch(self, name: str) -> None:
        """Take note that a name may have another region now, or none."""
        if name not in self.registry.current and name not in self._there:
            self._touched.pop(name, None)
            self._waiting.pop(name, None)
            self._left_out.pop(name, None)
        elif name not in self._waiting and name not in self._touched:
            self._waiting[name] = None
            if len(self._waiting) == 1 and not self._touched and not self._strays:
                self.wake()

    def begin(self) -> None:
        """Begin a round, if the last one is over: of all that has changed since that began."""
        if not self._touched and not self._strays:
            self._touched, self._waiting = self._waiting, self._touched

    @property
    def has_more(self) -> bool:
        """Whether there is something to do, in this round or in the next one."""
        return bool(self._touched or self._strays or self._waiting)

    def keep(self, region: Region) -> None:
        """Take note that a region is there already; without room, it goes."""
        if len(self._there) < self.room:
            self.note(region)
        else:
            self._strays.append(entry_of(region.number))

    def note(self, region: Region) -> None:
        """Take note that a region is there."""
        share = self.registry.accounts.of(region.owner.uid).stored
        share.add(1)
        self._there[region.name] = region.number, share
        if region.object is not None:
            self.lent.lend(entry_of(region.number), region.object)

    def remove(self, entry: str) -> None:
        """Have an entry removed that no region has."""
        self._strays.append(entry)

    def next(self) -> Change | None:
        """Return the next change of this round, until `done` the same one; None if there is no other."""
        while not self._strays and self._touched:
            name = next(iter(self._touched))
            region, there = self._wanted(name), self._there.get(name)
            if there is not None and (region is None or not self._has_place(region)):
                self._discard(name)
            elif region is None or (there is not None and there[0] == region.number):
                self._settle(name)
            elif self._has_place(region):
                return Change(entry_of(region.number), region)
            else:
                self._settle(name)
                self._left_out[name] = None
        return Change(self._strays[-1], None) if self._strays else None

    def done(self, change: Change) -> None:
        """Take note that the manager was told."""
        if change.region is None:
            self.lent.recall(self._strays.pop())
            self._readmit()
            return
        if change.region.name in self._there:
            self._discard(change.region.name)
        self.note(change.region)
        self._settle(change.region.name)

    def record(self) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
        """Return the room, the numbers of the regions that are there, and what must go; for `resume`."""
        return self.room, tuple(number for number, _ in self._there.values()), tuple(self._strays)

    def resume(self, numbers: Iterable[int], strays: Iterable[str]) -> None:
        """Go on as another host did, whose regions are here."""
        self._strays += strays
        for number in numbers:
            region = self.registry.regions.get(number)
            if region is not None and self.registry.current.get(region.name) is region:
                self.keep(region)
            else:
                self._strays.append(entry_of(number))
        for name in self.registry.names:
            self.touch(name)

    def _wanted(self, name: str) -> Region | None:
        """Return the region that a name has, if a next host could take it back."""
        region = self.registry.current.get(name)
        return None if region is None or region.object is None or not region.record else region

    def _has_place(self, region: Region) -> bool:
        there = self._there.get(region.name)
        if there is not None and there[0] == region.number:
            return True
        share = self.registry.accounts.of(region.owner.uid).stored
        return len(self) < self.room and share.fits(1)

    def _discard(self, name: str) -> None:
        number, share = self._there.pop(name)
        share.give(1)
        self._strays.append(entry_of(number))

    def _settle(self, name: str) -> None:
        del self._touched[name]
        self._left_out.pop(name, None)

    def _readmit(self) -> None:
        """Look again at a name that had no place: there is one."""
        if self._left_out:
            self._touched[self._left_out.popitem(last=False)[0]] = None


def entry_of(number: int) -> str:
    """Return the name of the entry of a region."""
    return f"r{number:x}"


def is_entry(entry: str) -> bool:
    """Whether an entry can be a region's."""
    return _ENTRY.fullmatch(entry) is not None


def number_of(entry: str) -> int:
    """Return the number of a region by its entry; 0, which no region has, if it is another entry."""
    return int(entry[1:], 16) if is_entry(entry) else 0
