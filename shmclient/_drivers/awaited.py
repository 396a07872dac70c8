"""Values of arenas that are waited for by the short road: one call in C, and no steps. Does no I/O.

It is for what a reader does all the time: the name has a value, its arena is current, and may be read still.
Everything else is for the operations in `arena_waits`, over any number of connections and hosts.
"""

from __future__ import annotations

from typing import Any

from shmclient._arenas.held import hold_value, make_value
from shmclient._arenas.reader import Reader
from shmclient._arenas.resting import Position
from shmclient._drivers import arenas
from shmprotocol.native.builtins import HeldValue
from shmprotocol.tuples import NamedTuple

_MAX = 1 << 62  # generations are smaller: see `shm_arena_layout.h`


class Awaited(NamedTuple):
    """The value of a name in an arena, by its short name, that is newer than a generation."""

    channel: Any  # of the connection
    reader: Reader
    name: str
    after: int

    def value(self, held: HeldValue) -> Any:
        """Return what `get` returns."""
        return self.reader._value(held)

    def handle(self, held: HeldValue) -> Any:
        """Return what `open` returns: an ArenaValue."""
        return make_value(self.reader, self.name, held)


def awaited(channel: Any, name: str, after: object) -> Awaited | None:
    """Return what is waited for under a full name, if that is in an arena of this connection; or None."""
    if channel is None or type(after) is not int or not 0 <= after < _MAX:
        return None
    reader = arenas.known(channel.context.arenas, name)
    return None if reader is None else Awaited(channel, reader, name[len(reader.name) + 1 :], after)


def awaited_in(channel: Any, reader: Reader, name: str, after: object) -> Awaited | None:
    """Return what is waited for under a short name, if the arena is one of this connection; or None."""
    if channel is None or type(after) is not int or not 0 <= after < _MAX:
        return None
    is_here = channel.context.arenas.get(reader.name) is reader
    return Awaited(channel, reader, name, after) if is_here else None


class Since:
    """A generation, and the arena in which it counts: in any other one each value is newer.

    With None, whatever there is will do. Without an arena it counts in the first one that is met.
    """

    def __init__(self, generation: int | None, reader: Reader | None) -> None:
        self.generation = generation
        self.reader = reader

    def within(self, reader: Reader) -> int:
        """Return the generation as it counts in an arena, in which the wait goes on."""
        if self.reader is not None and not self.reader.is_same_as(reader):
            self.generation = None
        self.reader = reader
        return self.generation or 0

    def is_over(self, reader: Reader | None, is_free: bool) -> bool:
        """Whether what was fetched will do. Without an arena, it can be what one had that has just ended.

        Then, if the generation counted in an arena, whatever is there by now will do.
        """
        is_over = self.generation is None
        if is_free and reader is None:
            self.generation = None
        return is_over

    def position(self, name: str) -> Position | None:
        """Return where a name stands in the arena, by its full name, if the wait has come to one."""
        reader = self.reader
        if reader is None or not reader.may_be_read_alone():
            return None
        return Position(reader, arenas.short_name(name, reader.name))

    def newer(self, name: str) -> Any:
        """Return a handle of a newer value in the arena without asking a host; None: there is none."""
        reader = self.reader
        if reader is None or not reader.may_be_read_alone():
            return None
        value = hold_value(reader, arenas.short_name(name, reader.name))
        return value if value is not None and value.generation > (self.generation or 0) else None


def never() -> bool:
    """Return False: nothing but the client ends it."""
    return False
