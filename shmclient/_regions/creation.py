"""An unpublished region as this process holds it, and what it owes the host at its end. Does no I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from shmclient._connection.outbox import Outbox
from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._regions.mapped import Lease
from shmprotocol.errors import RegionClosed
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m


def creation_key(region: int) -> tuple[str, int]:
    """Return what an unpublished region holds the connection with."""
    return ("creation", region)


class Creation:
    """An unpublished region: its read-write descriptor, and what the end of its mapping means.

    It owns the list with the descriptor. If nobody publishes or aborts it, as after Ctrl-C, its destructor
    aborts it.
    """

    _state = ""

    def __init__(self, outbox: Outbox, region: int, owned: descriptors.Owned) -> None:
        self.region = region
        self._outbox = outbox
        self._owned = owned
        self._address = 0
        self._is_mapped = False
        self._lease: Lease | None = None
        self._key = creation_key(region)
        self._state = "open"  # then "published" or "aborted"
        outbox.hold(self._key)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self._state == "open" and not is_finalizing():
            self.abort()

    def map(self, created: m.Created, label: str, *, is_sealed: bool) -> Any:
        """Map it read-write and return the buffer; on an error everything is given back.

        `is_sealed`: the host has sealed its size.
        """
        try:
            mapping = ADDRESS_SPACE.map_writable(
                (self._outbox.origin, self.region),
                self.fileno(),
                created.address,
                created.span or created.capacity,
                self._unmapped,
                label,
                size=created.capacity,
                is_sealed=is_sealed,
            )
        except BaseException:
            self.abort()
            raise
        self._is_mapped = True
        self._address = mapping.address
        return mapping.memory

    def freeze(self, *, is_sealed: bool) -> bool:
        """Make the mapping read-only in place: views stay, a write by one is SIGSEGV from then on.

        `is_sealed`: the host is to seal it, so that no mapping of a read-write descriptor may be left. False
        if no read-only one is available (/proc is not mounted, RLIMIT_NOFILE): nothing has changed.
        """
        if not is_sealed:
            ADDRESS_SPACE.freeze(self._address, self.fileno())
            return True
        try:
            reader = descriptors.reopen(self.fileno())
        except OSError:
            return False
        try:
            ADDRESS_SPACE.freeze(self._address, reader[0])
        finally:
            reader.close()
        return True

    @property
    def is_open(self) -> bool:
        """Whether it is neither published nor given up."""
        return self._state == "open"

    def fileno(self) -> int:
        """Return the read-write descriptor; RegionClosed when the creation is over."""
        if not self._owned:
            raise RegionClosed("the region is published or given up: its read-write descriptor is closed")
        return self._owned[0]

    def published(self, lease: Lease) -> None:
        """The host has it. The lease is held for as long as the writable mapping lives, if it does."""
        self._end("published")
        if self._is_mapped:
            self._lease = lease.share(self._key)
        self._outbox.give_back(self._key)

    def used(self) -> None:
        """The host has it, under a name, and its lease has another owner. It was never mapped."""
        self._end("published")
        self._outbox.give_back(self._key)

    def abort(self) -> None:
        """Give the name back now, and the address once no view of it lives any more. May be called again.

        A view can live for long: a notebook keeps its variables, `sys.last_traceback` those of each frame.
        """
        if self._state == "open":
            self._end("aborted")
            if self._is_mapped:
                self._outbox.give_back(None, m.Abort(0, self.region, True))
            # Not `else`: the last view may have gone meanwhile, on another thread. Either its `_unmapped` saw
            # "aborted", or this sees that nothing is mapped, or both: the outbox gives the key back once.
            if not self._is_mapped:
                self._forget()

    def _end(self, state: str) -> None:
        self._state = state
        self._owned.close()

    def _unmapped(self) -> None:
        self._is_mapped = False
        if self._state == "aborted":
            self._forget()
        elif self._lease is not None:
            self._lease.release(self._key)

    def _forget(self) -> None:
        # After an Abort that said "mapped" and came later, on another thread, this has ended it all.
        self._outbox.give_back(self._key, m.Abort(0, self.region, False))
