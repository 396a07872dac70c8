"""An arena as a process has it mapped for reading, and the ledger of its client. Does no I/O."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from typing import Any, NoReturn

from shmclient._arenas.values import decode
from shmclient._process.address_space import ADDRESS_SPACE, region_label
from shmclient._regions.mapped import Lease, follow_line
from shmprotocol.errors import (
    BadRegion,
    ClientClosed,
    Closed,
    InvalidArgument,
    OutOfMemory,
    QuotaExceeded,
    RegionNotFound,
    ShmError,
    Unsupported,
)
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.native.builtins import ArenaReader, Current, HeldValue, Home, Ledger
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import LEDGER_HOLDS, origin_of

_BOARDS = 2  # so many takeovers nobody sleeps through: each wakes all
_EVENTS = 4096  # bytes of a read: an event has 8


class ClientLedger:
    """The ledger of a connection, and the event that owners of arenas raise: a socket. It owns both."""

    def __init__(self, owned: descriptors.Owned, home: Home | None, number: int) -> None:
        try:
            ledger = Ledger(owned[0])
            if home is not None:
                ledger._keep(home, number, owned[0])
        except BaseException:
            owned.close()
            raise
        ledger_descriptor = owned.take()
        ledger_descriptor.close()
        self.ledger: Ledger | None = ledger  # until it is closed: then values alone have it
        self._event = owned
        os.set_blocking(owned[0], False)

    @classmethod
    def restored(cls, ledger: Ledger, owned: descriptors.Owned) -> ClientLedger:
        """Return a ledger of an earlier connection, with a new event, which it owns."""
        again = cls.__new__(cls)
        again.ledger, again._event = ledger, owned
        os.set_blocking(owned[0], False)
        return again

    def fileno(self) -> int:
        """Return the event's descriptor, which stays the ledger's."""
        return self._event[0]

    def clear(self) -> bool:
        """Take what owners have written; False if one of them has shut the event. Never waits."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._event[0], _EVENTS):
                pass
            return False
        return True

    def take(self) -> bool:
        """Take one of what owners have written; False as for `clear`. Never waits."""
        try:
            return bool(os.read(self._event[0], _EVENTS))
        except BlockingIOError:
            return True

    def close(self) -> None:
        """Close the event, and let go of the ledger, which lives as long as a value is held."""
        self.ledger = None  # a closed connection can be in a cycle, and the ledger has a descriptor
        self._event.close()


class Reader(ArenaReader):
    """An arena of this process. Values that it returned keep it mapped."""

    def __init__(self, grant: m.Grant, current: Current, board: Board, host_id: str) -> None:
        self.grant = grant
        self.name = grant.name
        self.current = current
        self.board = board
        self.line = board.line(grant.line)
        self._boards = [board]  # the last ones: threads may sleep on a line of one that has moved
        self._memory: Any = None  # of its mapping
        self.host_id = host_id
        self._process = os.getpid()

    is_attended = False  # the host knows that this client may sleep on its values
    ledger: Ledger  # in which it is held what is read
    lease: Lease
    moved_by = 0  # the address where it is mapped, less its own

    def is_granted(self) -> bool:
        """Whether it is the current arena of its name, and may be read still, by a living host's board."""
        return self.current._is_granted() is True

    def was_current(self) -> bool:
        """Whether the last word of the host is that it is the current arena of its name, or was not heard."""
        return bool(self.current._was_current()) or self.board.has_moved()

    def is_same_as(self, other: Reader) -> bool:
        """Whether another reader, perhaps of another connection, is of the same arena."""
        mine, theirs = (
            (origin_of(self.host_id), self.grant.region),
            (origin_of(other.host_id), other.grant.region),
        )
        return mine == theirs

    def may_be_read_alone(self) -> bool:
        """Whether it is of this process, not of its parent, and was current by the last word of its host."""
        return self._process == os.getpid() and self.was_current()

    def has_host(self) -> bool:
        """Whether the host of its connection lives, or has handed over to another process."""
        return self.board.lives() or self.board.has_moved()

    def renew(self, grant: m.Grant, board: Board | None) -> None:
        """Take a grant that says that it is current still, perhaps with other rights or on another board."""
        self.grant = grant
        if board is None or board is self.board or not board.line(grant.line):
            follow_line(self.current, self.board, grant)
        else:
            self.move(board)

    def move(self, board: Board) -> None:
        """Look at the same line of another board from now on."""
        self._boards = [*self._boards[-_BOARDS:], board]
        self.board, self.line = board, board.line(self.grant.line)
        follow_line(self.current, board, self.grant)
        self._move(self.line, (self._memory, board))

    def line_changes(self) -> int:
        """Return the number that changes with the arena's line on the board."""
        return self.board.changes(self.line)

    def _decode(self, held: HeldValue) -> Any:
        return decode(self, held)

    def _fail(self, error: int, name: object) -> NoReturn:
        raise read_error(error, name, self.name)


def open_reader(
    grant: m.Grant,
    lease: Lease,
    descriptor: int,
    board: Board | None,
    ledger: ClientLedger,
    anywhere: bool,
) -> Reader:
    """Map an arena that was granted; its mapping then owns the lease. The caller still owns the descriptor.

    AddressConflict; BadRegion: it is not an arena.
    """
    if board is None or not board.line(grant.line):
        raise Unsupported(f"{grant.name!r} is an arena, and this process could not map the host's board")
    held_in = ledger.ledger
    if held_in is None:
        raise ClientClosed("the client is closed: connect again")
    current = Current()
    follow_line(current, board, grant)
    mapping = ADDRESS_SPACE.attach(
        (lease.origin, grant.region),
        descriptor,
        grant.address,
        grant.capacity,
        lease.release,
        region_label(grant.name, grant.generation),
        arena=True,
        anywhere=anywhere,
    )
    reader = Reader(grant, current, board, lease.host_id)
    size = os.fstat(descriptor).st_size
    numbers = (mapping.address, grant.address, grant.capacity, size, reader.line, grant.region)
    reader._memory = mapping.memory
    reader.ledger, reader.lease = held_in, lease
    error = reader._start(*numbers, held_in, (mapping.memory, board), current)
    if error:
        raise BadRegion(f"{grant.name!r} is not an arena that can be read: {os.strerror(error)}")
    reader.moved_by = mapping.address - grant.address
    reader._remember_values()
    return reader


def names_in(arena: ArenaReader) -> Iterator[str]:
    """Yield the names in an arena that is read or owned here."""
    start = 0
    while True:
        names, start = arena._names(start)
        yield from names
        if not start:
            return


def read_error(error: int, name: object, arena: str) -> ShmError | OSError:
    """Return the error of a value that could not be read or written."""
    if error == errno.EBADF:
        return Closed(f"the arena {arena!r} is closed")
    if error == errno.EBADMSG:
        return BadRegion(f"the owner of the arena {arena!r} has written nonsense for {name!r}")
    if error == errno.ENOLCK:
        return QuotaExceeded(
            f"this client uses {LEDGER_HOLDS} values already, as many as its ledger takes: drop some of them"
        )
    if error == errno.EBUSY:
        return BadRegion(
            f"{name!r} in {arena!r} changes faster than it can be read: its owner does nothing else"
        )
    if error == errno.ECHILD:
        return InvalidArgument(
            f"the arena {arena!r} was opened before this process was forked: connect, and open it here"
        )
    if error == errno.ENOMEM:
        return OutOfMemory(f"no memory is left to use the arena {arena!r}")
    if error == errno.ESTALE:
        return RegionNotFound(
            f"the arena {arena!r} was replaced or unlinked, and has grown since it was opened: open it again"
        )
    return OSError(error, os.strerror(error), arena)
