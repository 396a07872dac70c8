"""Spares: regions without a name that came ahead of their put, and which of them to ask for. Does no I/O.

A put fills one and names it, in one round trip. Each is a Creation, which gives its region back to the host
unless it is published.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from shmclient._connection.outbox import Outbox
from shmclient._regions.creation import Creation
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.kernel.constants import MIB
from shmprotocol.native import builtins
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m

UNASKED_MAX = 4 * MIB  # bytes, without a reserve: above, the round trip that a spare saves is 2% of a put
LOOP_S = 0.5  # from one put to the next in a loop; a host takes an idle spare after 1 s
BATCH = 16  # spares with one reply: the kernel makes and the client fills them one by one
RESERVED_MAX = 200  # spares: each is a descriptor here, and two in the host


class Spares:
    """The spares of one connection. `filler` gets each that is for a reserve.

    Threads take and add without a lock: each of these is one call of a dict. A thread that adds looks at
    `_is_closed` afterwards, and who closes sets it first, so that one of them sees the other.
    """

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.monotonic) -> None:
        self.reserve = 0  # bytes that the host lets this connection have
        # The thread that gives spares their pages ahead of need, and what it calls those that it was given.
        self.filler: builtins.Filler | None = None
        self._tickets: dict[Creation, int] = {}
        self._outbox = outbox
        self._clock = clock
        self._last_s = -LOOP_S
        self._rooms: dict[Creation, int] = {}
        self._is_closed = False

    def take(self, size: int) -> Creation | None:
        """Take out the smallest spare with room for a payload, None without one. The caller owns it."""
        capacity = page_up(HEADER_SIZE + size)
        fitting = [item for item in list(self._rooms.items()) if item[1] >= capacity]
        for spare, _ in sorted(fitting, key=lambda item: item[1]):
            if self._rooms.pop(spare, None) is not None:
                if self.filler is not None:
                    self.filler.skip(self._tickets.pop(spare, 0))
                return spare
        return None

    def wanted(self, size: int) -> tuple[int, ...]:
        """Return the sizes of the spares to ask for with a put of this size."""
        last_s, self._last_s = self._last_s, self._clock()
        if self._is_closed:
            return ()
        if not self.reserve:
            in_loop = self._last_s - last_s < LOOP_S
            return (size,) if in_loop and size <= UNASKED_MAX and not self._rooms else ()
        capacity, rooms = page_up(HEADER_SIZE + size), list(self._rooms.values())
        left = self.reserve - sum(rooms)
        if left < self.reserve // 2 or len(rooms) > RESERVED_MAX:  # ask for several at once
            return ()
        return (size,) * min(left // capacity, BATCH)

    def add(self, spares: tuple[m.Spare, ...], owned: descriptors.Owned) -> None:
        """Take the spares of a reply, with their descriptors; those of the last ones may be missing."""
        for spare in spares:
            if not owned:
                self._outbox.give_back(None, m.Abort(0, spare.region, False))
                continue
            creation = Creation(self._outbox, spare.region, owned.take())
            if self.filler is not None:
                self._tickets[creation] = self.filler.add(creation.fileno(), spare.capacity)
            self._rooms[creation] = spare.capacity
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Give all back, and take no more. Never waits; may be called again."""
        self._is_closed = True
        if self.filler is not None:
            self.filler.close()
        for spare in list(self._rooms):
            if self._rooms.pop(spare, None) is not None:
                self._tickets.pop(spare, None)
                spare.abort()
