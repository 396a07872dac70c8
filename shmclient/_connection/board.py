"""The board of a connection's host: mapped when somebody looks at it for the first time. Does no I/O.

Many clients never do, and mapping it takes a sixth of a connect. Until then its descriptor is kept here.
"""

from __future__ import annotations

import contextlib

from shmclient._process.address_space import ADDRESS_SPACE
from shmprotocol.errors import ShmError
from shmprotocol.kernel.board import Reader
from shmprotocol.wire.descriptors import NONE, Owned


class LazyBoard:
    """The board that came with a Welcome. Owns its descriptor until it is mapped, or closed."""

    def __init__(self, host_id: str, address: int, capacity: int, owned: Owned) -> None:
        self._host_id = host_id
        self.address = address
        self._capacity = capacity
        self._owned = owned
        self._reader: Reader | None = None

    def reader(self) -> Reader | None:
        """Return the board, mapped; None if it cannot be, or is not one: the host is asked each time then.

        None after the end of the connection, too, unless it was mapped before. Thread-safe. After Ctrl-C the
        next call tries again.
        """
        if self._owned:  # of two threads that see that, the second one waits for the first
            with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:
                if self._owned:
                    self._reader = self._map(self._owned[0])
                    self._owned.close()
        return self._reader

    def has_moved(self) -> bool:
        """Whether it is mapped, and its host has handed over to another process, which has another board."""
        reader = self._reader
        return reader is not None and reader.has_moved()

    def fileno(self) -> int:
        """Return its descriptor, which stays the board's; -1 if it is mapped, or there is none."""
        return self._owned[0] if self._owned else -1

    def close(self) -> None:
        """Map it for nobody from now on."""
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:  # not while another thread maps it
            self._owned.close()

    def end(self) -> None:
        """Close it, and have those who look at it ask their client from now on, who is closed."""
        self.close()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end()

    def forget(self) -> None:
        """Do as `close`, with no lock: in the child of a fork, or where nobody else can have this object."""
        self._owned.close()

    def _map(self, descriptor: int) -> Reader | None:
        with contextlib.suppress(ShmError, OSError):
            buffer = ADDRESS_SPACE.attach(
                (self._host_id, -self.address),  # no region's number; and of another board, another
                descriptor,
                self.address,
                self._capacity,
                _do_nothing,
                "the board of the host",
                anywhere=True,  # nothing points into it
            )
            return Reader(buffer.address, buffer.memory)
        return None


def _do_nothing() -> None:
    pass


NO_BOARD = LazyBoard("", 0, 0, NONE)  # of a host without one
