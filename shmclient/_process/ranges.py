"""A mapping of this process, and its users. Maps nothing."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

from shmprotocol.errors import BadRegion


class Range:
    """A mapping of this process, and its users.

    `identity` is the host's own id, and the region's number there.
    """

    def __init__(
        self,
        address: int,
        capacity: int,
        flags: int,
        identity: tuple[str, int],
        label: str,
        is_writable: bool,
        is_published: bool,
    ) -> None:
        self.address = address
        self.capacity = capacity
        self.flags = flags
        self.identity = identity
        self.label = label
        self.is_writable = is_writable
        self.is_published = is_published
        self.is_inherited = True  # by the children of a fork
        self.holds: set[Hold] = set()
        self.late: list[Hold] = []  # released, but it is mapped still: their leases stay
        self.unmappings: list[int] = []  # their results; 0: nothing is mapped any more
        self.buffer: weakref.ref[Any] | None = None  # the last one that was handed out
        self._file: tuple[int, int] | None = None  # device and inode; None: the fast road has mapped it

    def needs_lease(self) -> bool:
        """Whether all who hold it have no lease of their own, and none was left here."""
        return not self.late and all(hold.after is None for hold in self.holds)

    def check_file(self, descriptor: int, *, is_new: bool) -> None:
        """Raise BadRegion unless a descriptor is of what is mapped: only what is new was checked in itself.

        The size of another object would lead readers behind the end of this one.
        """
        status = os.fstat(descriptor)
        file = status.st_dev, status.st_ino
        if is_new:
            self._file = file
        elif self._file not in (file, None):
            raise BadRegion(f"the host sent another object for {self.label}, which is mapped here already")


class Hold:
    """One user's hold on a range. `after` is called when it is released and no longer mapped for it.

    None: it has no lease of its own, and needs one as long as it lives.
    """

    __slots__ = ("after", "range")

    def __init__(self, held: Range, after: Callable[[], None] | None) -> None:
        self.range = held
        self.after = after
