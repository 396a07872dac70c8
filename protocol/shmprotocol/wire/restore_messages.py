"""The messages about what clients hand back to a host whose predecessor was killed, since version 4."""

from __future__ import annotations

from typing import NamedTuple

from shmprotocol.wire.items import Grant


class Restore(NamedTuple):
    """Hand back regions of the host before, by their numbers, each with a read-only descriptor.

    The reply is Restored. It may come behind Hello, and behind another Restore, and nowhere else.
    """

    id: int
    regions: tuple[int, ...]


class Restored(NamedTuple):
    """The reply to Restore: a grant for each region, in their order, whose lease is 0 if it is refused."""

    id: int
    grants: tuple[Grant, ...]
