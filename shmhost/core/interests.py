"""The waits and watches of one client: names that it waits for, and prefixes that it watches. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from shmhost.core.name_index import NameIndex, PrefixIndex
from shmhost.core.shares import Share
from shmprotocol.errors import QuotaExceeded, RemoteProtocolError
from shmprotocol.wire import messages as m

Wait = m.Open | m.Stat  # of one or more names

# Watches, and names that are waited for, of one connection: far more than threads that could wait, and some
# 500 KB at most, with names of 255 bytes.
MAX_LISTENING = 1024


def names_of(request: Wait) -> tuple[str, ...]:
    """Return the names that a request waits for."""
    return (request.name,) if isinstance(request, m.Stat) else request.open_names


class Interests:
    """The waits and watches of one connection, by the number of their request. False if there is none."""

    __slots__ = ("_count", "_names", "_prefixes", "_share", "_waits", "_watches")

    def __init__(self, share: Share) -> None:
        self._share = share  # of the client's uid: it has `_count` of that
        self._waits: dict[int, Wait] = {}
        self._watches: dict[int, str] = {}
        self._names, self._prefixes = NameIndex(), PrefixIndex()  # of both
        self._count = 0  # watches, and names that are waited for: what MAX_LISTENING limits

    def __len__(self) -> int:
        """Return the number of waits and watches."""
        return len(self._waits) + len(self._watches)

    def __bool__(self) -> bool:
        return self._count > 0

    def check_wait(self, request: int) -> None:
        """Raise RemoteProtocolError if a wait has this number."""
        if request in self._waits:
            raise RemoteProtocolError(f"request id {request} is in use by a wait")

    def check_watch(self, request: int) -> None:
        """Raise RemoteProtocolError if a watch has this number."""
        if request in self._watches:
            raise RemoteProtocolError(f"request id {request} is in use by a watch")

    def wait(self, request: Wait) -> None:
        """Add a wait for the names of a request, or refuse."""
        self._add(len(names_of(request)))
        self._note_wait(request)

    def watch(self, request: m.Watch) -> None:
        """Add a watch, or refuse."""
        self._add(1)
        self._note_watch(request.id, request.prefix)

    def watches(self, name: str, *, is_arena: bool = False) -> list[int]:
        """Return the watches of a name, and those of names below it, if it is an arena's."""
        numbers = self._prefixes.of(name)
        if is_arena:
            numbers += [number for number, prefix in self._watches.items() if prefix.startswith(f"{name}/")]
        return numbers

    def waits(self, name: str, *, is_arena: bool = False) -> list[Wait]:
        """Return the requests that wait for a name, or for one below it, if it is an arena's."""
        numbers = self._names.of_all_below(name) if is_arena else self._names.of(name)
        return [self._waits[number] for number in numbers]

    def has_watch(self, request: int, name: str, *, is_arena: bool = False) -> bool:
        """Whether there is a watch of a name with this number, or of one below it, if it is an arena's."""
        prefix = self._watches.get(request)
        if prefix is None:
            return False
        return name.startswith(prefix) or (is_arena and prefix.startswith(f"{name}/"))

    def is_waiting(self, request: int) -> bool:
        """Whether there is a wait with this number."""
        return request in self._waits

    def has_wait(self, request: Wait) -> bool:
        """Whether this wait has not ended."""
        return self._waits.get(request.id) is request

    def impatient(self) -> list[Wait]:
        """Return the requests that wait though their client did not ask for it."""
        waits = self._waits.values()
        return [request for request in waits if isinstance(request, m.Stat) or not request.wait]

    def end_watch(self, request: int) -> None:
        """Remove a watch, if there is one with this number."""
        prefix = self._watches.pop(request, None)
        if prefix is not None:
            self._prefixes.remove(prefix, request)
            self._count -= 1
            self._share.give(1)

    def end_wait(self, request: int) -> bool:
        """Remove a wait; False if there is none with this number."""
        wait = self._waits.pop(request, None)
        if wait is not None:
            names = names_of(wait)
            for name in names:
                self._names.remove(name, request)
            self._count -= len(names)
            self._share.give(len(names))
        return wait is not None

    def record(self) -> tuple[tuple[m.Open, ...], tuple[m.Stat, ...], tuple[tuple[int, str], ...]]:
        """Return the waits, the questions that wait, and the watches, for `resume`."""
        waits = self._waits.values()
        opens = tuple([wait for wait in waits if isinstance(wait, m.Open)])
        return (
            opens,
            tuple([wait for wait in waits if isinstance(wait, m.Stat)]),
            tuple(self._watches.items()),
        )

    def resume(self, waits: Iterable[Wait], watches: Iterable[tuple[int, str]]) -> None:
        """Take waits and watches that another host has admitted."""
        for request in waits:
            self._note_wait(request)
        for number, prefix in watches:
            self._note_watch(number, prefix)
        self._count = len(self._watches) + sum(map(len, map(names_of, self._waits.values())))
        self._share.add(self._count)

    def clear(self) -> None:
        """Remove all."""
        self._waits.clear()
        self._watches.clear()
        self._names, self._prefixes = NameIndex(), PrefixIndex()
        self._share.give(self._count)
        self._count = 0

    def _note_wait(self, request: Wait) -> None:
        self._waits[request.id] = request
        for name in names_of(request):
            self._names.add(name, request.id)

    def _note_watch(self, number: int, prefix: str) -> None:
        self._watches[number] = prefix
        self._prefixes.add(prefix, number)

    def _add(self, count: int) -> None:
        if self._count + count > MAX_LISTENING:
            raise QuotaExceeded(
                f"one connection has at most {MAX_LISTENING} watches and names that it waits for, and this "
                f"one has {self._count}: cancel some"
            )
        self._share.take(count)
        self._count += count
