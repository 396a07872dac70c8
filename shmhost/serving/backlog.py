"""Bytes and descriptors that wait in the host until slow clients read, in their uid's account. Sends nothing.

A frame is charged when it is queued, and until its memory is free. Where the share of a uid has no room for
one, the connection of that uid with the most bytes is ended. Its bytes are freed a little later: what is
queued in their place until then is over the share, but never by more than these. Where there is no room for
copies of descriptors, nothing is queued, and the request is refused.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from shmhost.core.holders import users_of
from shmhost.core.shares import Share, ShareExceeded
from shmprotocol.wire import descriptors


class Backlogs:
    """The backlogs of all connections of one uid. Its shares are of bytes, and of descriptors: `files`."""

    def __init__(self, counter: Share, files: Share) -> None:
        self.counter = counter
        self.files = files
        self._serving: set[Backlog] = set()  # those with bytes, whose connections are not ended
        self._ending = 0  # bytes of connections that were ended, and are still in memory
        self._over = 0  # bytes that were taken beyond the share; at most `_ending`

    def begin(self, end: Callable[[str], None]) -> Backlog:
        """Return the backlog of one more connection, which `end` ends, with the reason, a little later."""
        return Backlog(self, end)

    def grow(self, backlog: Backlog, size: int) -> None:
        """Take bytes; if there is no room for them, end those with the most."""
        backlog.size += size
        if not backlog.is_ended:
            self._serving.add(backlog)
        try:
            self.counter.take(size)
        except ShareExceeded as error:
            self.counter.add(size)
            self._over += size
            why = f"it does not read: {error}{users_of(error.pool)}"
            while self._ending < self._over and self._serving:
                max(self._serving, key=lambda each: each.size).end(why)

    def shrink(self, backlog: Backlog, size: int) -> None:
        """Give bytes back."""
        backlog.size -= size
        if backlog.is_ended:
            self._ending -= size
            self._over = max(0, self._over - size)
        elif not backlog.size:
            self._serving.discard(backlog)
        self.counter.give(size)

    def set_aside(self, backlog: Backlog) -> None:
        """Note that what one has is going to be freed."""
        self._serving.discard(backlog)
        self._ending += backlog.size


class Backlog:
    """The bytes that wait for one connection: `size` of them."""

    __slots__ = ("_backlogs", "_end", "is_ended", "size")

    def __init__(self, backlogs: Backlogs, end: Callable[[str], None]) -> None:
        self.size: int = 0
        self.is_ended: bool = False  # whether its connection is about to be closed: nothing more is queued
        self._backlogs = backlogs
        self._end = end

    def grow(self, size: int) -> None:
        """Take bytes. This one or another of its uid may be ended for them."""
        self._backlogs.grow(self, size)

    def shrink(self, size: int) -> None:
        """Give bytes back that were sent or freed."""
        self._backlogs.shrink(self, size)

    def take_files(self, count: int) -> None:
        """Take descriptors of the host. OSError, as where it has none left: its uid may have no more."""
        try:
            self._backlogs.files.take(count)
        except ShareExceeded as error:
            raise OSError(errno.EMFILE, f"{error}{users_of(error.pool)}") from None

    def add_files(self, count: int) -> None:
        """Take descriptors that are there already."""
        self._backlogs.files.add(count)

    def give_files(self, count: int) -> None:
        """Give descriptors back."""
        self._backlogs.files.give(count)

    def close_files(self, copies: list[int]) -> None:
        """Close copies, and give them back."""
        if copies:
            descriptors.close_all(copies)
            self.give_files(len(copies))

    def close(self) -> None:
        """Note that the connection is closed, and that its bytes are going to be freed."""
        if not self.is_ended:
            self.is_ended = True
            self._end = _do_nothing  # which is the outbox's, as this is: a cycle
            self._backlogs.set_aside(self)

    def end(self, why: str) -> None:
        """End the connection."""
        end = self._end
        self.close()
        end(why)


def _do_nothing(_why: str) -> None:
    pass
