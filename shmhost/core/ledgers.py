"""The ledger of a client: where it notes what it uses of the values of arenas. Pure.

A client has one for all arenas, and alone writes it; the owners of the arenas read it. `machine.arena_memory`
has its memory.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from shmhost.core.accounts import Charge
from shmhost.core.peers import Peer
from shmprotocol.abi.header import HEADER_SIZE

if TYPE_CHECKING:
    from shmhost.core.arenas import Arena


class LedgerObject(Protocol):
    """The memory of a ledger, and the two ends of its event. It owns their descriptors."""

    capacity: int

    def writer(self) -> int:
        """Return the read-write descriptor, until `hand_over`."""

    def reader(self) -> int:
        """Return the read-only descriptor."""

    def event(self) -> int:
        """Return the socket that an event loop of the client waits for, until `hand_over`."""

    def raiser(self) -> int:
        """Return the socket by which owners wake that loop."""

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes as they are just now, which the client wrote."""

    def hand_over(self) -> None:
        """Close the read-write descriptor and the event: the client has them."""

    def renew(self) -> None:
        """Make another event, unless the client has not got this one. OSError."""

    def close(self) -> None:
        """Close what is open."""


_HIGH = struct.Struct("<Q")
_HOLD = 16  # bytes of a hold, which begins with the block's address
LOOKED_AT = 512  # holds: 8 KiB, read and looked at in 20 us


class LedgerUser(Protocol):
    """The session of the client that a ledger is of."""

    def pass_on(self, ledger: Ledger) -> None:
        """Have the ledger no more: another connection of the client has it."""


class Ledger:
    """A ledger, of a client that is connected. `number` is never used again while the host runs."""

    __slots__ = (
        "arenas",
        "charge",
        "is_taken",
        "joined",
        "number",
        "object",
        "outlives",
        "peer",
        "record",
        "user",
    )

    def __init__(self, number: int, peer: Peer, charge: Charge, memory_object: LedgerObject) -> None:
        self.number: int = number
        self.peer: Peer = peer
        self.charge: Charge = charge
        self.object: LedgerObject = memory_object
        self.arenas: set[Arena] = set()
        self.record: int = 0  # where the state file has it; 0: nowhere
        self.joined: int = 0  # arenas that the record names
        self.outlives: bool = False  # its connection: it was handed back, and values need no connection
        self.is_taken: bool = (
            False  # by the connection by which its client goes on, and not only by its keeper's
        )
        self.user: LedgerUser | None = None  # the session that has it

    def is_needed(self) -> bool:
        """Whether the client may use it without a connection that goes on with it."""
        return self.outlives and not self.is_taken

    def is_in_use(self) -> bool:
        """Whether the client may hold values, by what it wrote itself; of many holds, the first."""
        (high,) = _HIGH.unpack(self.object.read(0, _HIGH.size))
        count = min(high, LOOKED_AT)
        holds = self.object.read(HEADER_SIZE, count * _HOLD)
        is_held = any(holds[at : at + 8] != bytes(8) for at in range(0, len(holds), _HOLD))
        return bool(is_held or high > count)
