"""The messages about arenas, since version 3; see `messages`, which has them among all others."""

from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.items import Hold


class Arena(NamedTuple):
    """Ask for a new arena of `size` bytes, which may grow to `max_size` (0: not). The reply is ArenaMade.

    Both are bytes of the whole object, header page and all, and are rounded up to whole pages. With `keep` it
    stays when its owner is gone, until its name is unlinked or replaced.
    """

    id: int
    name: str
    size: int
    max_size: int
    mode: int
    replace: bool
    keep: bool


class Attend(NamedTuple):
    """Say that the client may sleep until a value of this arena changes, from now on. The reply is Done."""

    id: int
    region: int


class ArenaMade(NamedTuple):
    """The reply to Arena, with two descriptors: the memory, read-write, and the control socket.

    `size` is the bytes of the object, and `span` those to be mapped, at `address`. `line` is its line of the
    board, `generation` what it will be once its owner has said READY on the control socket.
    """

    id: int
    region: int
    address: int
    size: int
    span: int
    line: int
    generation: int


class Survey(NamedTuple):
    """Ask who holds values of an arena, from a hold of a ledger on (0, 0: the first). The reply is Surveyed.

    The client need not have opened the arena, and does not open it by this; it must have the right to.
    """

    id: int
    region: int
    ledger: int
    hold: int


class Surveyed(NamedTuple):
    """The reply to Survey, with the read-only descriptor of the arena, to look at its names.

    `ledger` and `hold` are where the next Survey goes on; 0 and 0: nothing is left.
    """

    id: int
    holds: tuple[Hold, ...]
    ledger: int
    hold: int
