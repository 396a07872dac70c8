"""The announcements of hosts: regions that are there, or gone; and what is known by them. Pure.

A large region is announced twice: at once, as *early*, with a number of chance by which its chunks are asked
for, and with its hash, once that is known. Nobody publishes a copy before the second one.

A host numbers its news. Another that misses some asks for all that the host has now, so nothing is lost by a
break; and of a name only a later generation is taken, so no order of messages brings an older one back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shmhost.core.window import STEP, Span, span_size
from shmhost.fleet.hashing import HASH_SIZE, chunk_count
from shmhost.fleet.messages import U64, fields, flag, number, text
from shmprotocol.abi.header import HEADER_SIZE, KIND_DATA, KIND_OBJECTS, page_up
from shmprotocol.errors import InvalidArgument, RemoteProtocolError
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import MAX_GENERATION, check_name

MAX_NAMES = 65_536  # of one host
MAX_CHUNKS = 2**18 - 1  # whose hashes fit into one answer: of a TiB
PAGE_NAMES = 500  # of one answer: 200 KB


class Announcement(NamedTuple):
    """A sealed region as its host has it. Pointers are addresses; `room` is the bytes behind the header."""

    name: str
    generation: int
    address: int
    room: int
    kind: int
    data_size: int
    root: int
    root_size: int
    metadata: int
    metadata_size: int
    created_ns: int
    mode: int
    user: str  # the name of its owner there
    tree: bytes
    is_early: bool = False  # not hashed yet: `tree` is a number of chance

    def confirms(self, early: Announcement) -> bool:
        """Whether this is the announcement, with the hash, of what was announced early."""
        same = self._replace(tree=early.tree, mode=early.mode, is_early=True)
        return early.is_early and not self.is_early and same == early

    def is_newer_than(self, other: Announcement) -> bool:
        """Whether this has the hash of what the other one announces early: news may come in two ways."""
        return other.is_early and not self.is_early and self.generation == other.generation

    @property
    def capacity(self) -> int:
        """The bytes of the memory object."""
        return page_up(HEADER_SIZE + self.room)

    @property
    def span(self) -> Span:
        """The addresses that it takes."""
        return Span(self.address, span_size(self.capacity))


def _name(value: object) -> str:
    try:
        return check_name(text(255)(value))
    except InvalidArgument as error:
        raise RemoteProtocolError(str(error)) from None


def _tree(value: object) -> bytes:
    if type(value) is not bytes or len(value) != HASH_SIZE:
        raise RemoteProtocolError(f"{value!r:.40} is not a hash")
    return value


_GENERATION = number(1, MAX_GENERATION)
_ADDRESS = number(STEP, 2**47)
_SIZE = number(0, 2**47)
_POINTER = number(0, 2**47)
_CHECKS = (
    *(_name, _GENERATION, _ADDRESS, number(1, 2**47), number(min(KIND_DATA, KIND_OBJECTS), 255), _SIZE),
    *(_POINTER, _SIZE, _POINTER, _SIZE, number(0, 2**63 - 1), number(0, 0o777), text(64), _tree, flag),
)


def announcement_of(values: tuple[Any, ...]) -> Announcement:
    """Return an announcement; RemoteProtocolError. Where its pointers lie is checked with its header."""
    announcement = Announcement(*fields(values, *_CHECKS))
    if announcement.address % STEP or chunk_count(announcement.room) > MAX_CHUNKS:
        raise RemoteProtocolError(
            f"{announcement.name!r} cannot have {announcement.room} bytes at {announcement.address:#x}"
        )
    return announcement


def gone_of(values: tuple[Any, ...]) -> tuple[str, int]:
    """Return the name and the last generation of a region that is gone."""
    name, generation = fields(values, _name, U64)
    return name, generation


@dataclass(slots=True)
class Known:
    """The announcements of one host, over its restarts, and how far its news have been heard."""

    names: dict[str, Announcement] = field(default_factory=dict)
    address: str = ""  # of the process that the rest is about
    news: int = 0  # the number of the latest of its news that was taken, with all before it
    is_behind: bool = True  # news were missed: all has to be asked for
    _seen: set[str] = field(default_factory=set)  # names that were announced since `begin`
    # Names that have ended since `begin`, with their last generation, until `finish`: the answer that tells
    # of one may be older than the news that it is gone, as the two come by different threads.
    _ended: dict[str, int] | None = None

    def hear(self, address: str, news: int) -> bool:
        """Take the number of news; False: they are old, or some before them are missing."""
        if address != self.address or self.is_behind:
            self.is_behind = True
            return False
        if news > self.news + 1:
            self.is_behind = True
        if news == self.news + 1:
            self.news = news
            return True
        return False

    def note(self, address: str, news: int) -> None:
        """Take the number of the latest news of a host, which says it now and then."""
        if address != self.address or news > self.news:
            self.is_behind = True

    def announce(self, announcement: Announcement) -> bool:
        """Take an announcement; False if it is old, or one too many."""
        older = self.names.get(announcement.name)
        if older is None and len(self.names) >= MAX_NAMES:
            return False
        floor = max(older.generation if older is not None else 0, self._ended_at(announcement.name) + 1)
        if announcement.generation < floor:
            return False
        self._seen.add(announcement.name)
        if older is not None and older.is_newer_than(announcement):
            return False
        self.names[announcement.name] = announcement
        return True

    def _ended_at(self, name: str) -> int:
        return self._ended.get(name, 0) if self._ended is not None else 0

    def end(self, name: str, generation: int) -> bool:
        """Take that a region is gone; False if that is old."""
        if self._ended is not None and len(self._ended) < MAX_NAMES:
            self._ended[name] = max(generation, self._ended_at(name))
        record = self.names.get(name)
        if record is None or record.generation > generation:
            return False
        del self.names[name]
        return True

    def begin(self, address: str, news: int) -> None:
        """Begin to take all that a host has, as of these news."""
        self.address, self.news, self.is_behind = address, news, False
        self._seen, self._ended = set(), {}

    def finish(self) -> list[str]:
        """All has been taken: return the names that the host does not have any more, which are forgotten."""
        self._ended = None
        gone = [name for name in self.names if name not in self._seen]
        for name in gone:
            del self.names[name]
        return gone


class Holders:
    """The payloads of which other hosts have copies, by the addresses of these: the latest ones of each."""

    def __init__(self) -> None:
        self._trees: dict[str, dict[bytes, None]] = {}

    def note(self, address: str, tree: bytes) -> None:
        """A host has a copy; of too many, the one that was noted first is forgotten."""
        trees = self._trees.setdefault(address, {})
        trees.pop(tree, None)
        trees[tree] = None
        if len(trees) > MAX_NAMES:
            del trees[next(iter(trees))]

    def has(self, address: str, tree: bytes) -> bool:
        """Whether a host has said that it has a copy."""
        return tree in self._trees.get(address, ())

    def leave(self, address: str) -> None:
        """A host has gone."""
        self._trees.pop(address, None)


def held_of(value: object) -> bytes:
    """Check the hash of a payload."""
    return _tree(value)


def page_of(values: tuple[Any, ...], after: str) -> tuple[int, str, tuple[tuple[Any, ...], ...]]:
    """Return a part of what a host has: the number of its news, the last name if there is more, entries."""
    if len(values) < 3:
        raise RemoteProtocolError("a catalogue has three fields")
    news, last, entries = U64(values[0]), text(255)(values[1]), values[2]
    if last and last <= after:
        raise RemoteProtocolError("a catalogue that does not end")
    if type(entries) is not tuple or len(entries) > PAGE_NAMES:
        raise RemoteProtocolError(f"a catalogue has at most {PAGE_NAMES} entries at a time")
    if not all(type(entry) is tuple and entry and type(entry[0]) is str for entry in entries):
        raise RemoteProtocolError("an entry of a catalogue has a kind")
    return news, last, entries
