"""Values of arenas that are waited for by the short road: one call in C, and no steps. Does no I/O.

It is for what a reader does all the time: the name has a value, its arena is current, and may be read still.
Everything else is for the operations in `arena_waits`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shmclient._arenas.held import make_value
from shmclient._arenas.reader import Reader
from shmclient._drivers import arenas
from shmclient._drivers.steps import Context
from shmprotocol.native.builtins import HeldValue

_MAX = 1 << 62  # generations are smaller: see `shm_arena_layout.h`


class Awaited(NamedTuple):
    """The value of a name in an arena, by its short name, that is newer than a generation."""

    reader: Reader
    name: str
    after: int

    def value(self, held: HeldValue) -> Any:
        """Return what `get` returns."""
        return self.reader._value(held)

    def is_over(self) -> bool:
        """Whether another arena may have the name: that one counts its own generations."""
        return not self.reader.was_current()

    def handle(self, held: HeldValue) -> Any:
        """Return what `open` returns: an ArenaValue."""
        return make_value(self.reader, self.name, held)


def awaited(context: Context, name: str, after: object) -> Awaited | None:
    """Return what is waited for under a full name, if that is in an arena of this connection; or None."""
    if type(after) is not int or not 0 <= after < _MAX:
        return None
    reader = arenas.known(context.arenas, name)
    return None if reader is None else Awaited(reader, name[len(reader.name) + 1 :], after)


def never() -> bool:
    """Return False: nothing but the client ends it."""
    return False
