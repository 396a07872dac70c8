"""Memory objects that the host can make larger: the kernel's side of regions with a `max_size`."""

from __future__ import annotations

import fcntl
import os

from shmhost.core import apart
from shmhost.core.objects import Memfd, refusal_of
from shmprotocol.abi.header import FLAG_GROWS
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.names import Seal


class GrowingMemfd(Memfd):
    """A Memfd whose size is not sealed upwards. It keeps its read-write descriptor, by which it grows.

    Its creator, and all who may write a shared one, can make it larger, too, with a descriptor of theirs.
    That harms no reader, but is not charged: the name goes when the creator does.
    """

    __slots__ = ()
    shape: int = fcntl.F_SEAL_SHRINK
    can_grow = True

    def flag(self, seal: Seal) -> int:
        """Return the header flags that say what protects this object, and that it can grow."""
        flags: int = super().flag(seal) | FLAG_GROWS
        return flags

    def grow(self, capacity: int) -> None:
        """Give it so many bytes. Not for the event loop, as `publish`. OutOfMemory.

        InvalidArgument: it has more already. It can have some of them: a thread of a host before, which that
        one did not wait for, may have been at this.
        """
        size = os.fstat(self._reader).st_size
        if size > capacity:
            raise InvalidArgument(
                f"the object was made larger without the host, and has {size} bytes: ask for as many, or "
                "create the region again"
            )
        try:
            apart.resize(self._writer, capacity)
        except OSError as error:
            raise refusal_of(error, f"make the object larger, to {capacity} bytes") from None
        self.capacity = capacity

    def is_larger(self) -> bool:
        """Whether somebody else has made it larger than `capacity`."""
        return os.fstat(self._reader).st_size > self.capacity
