"""Leases: the host's record that a client may have a region mapped. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel tells it (SO_PEERCRED, SO_PEERGROUPS).

    `pid` is for people to read: it is 0 between sibling containers, so nothing is decided by it.
    """

    uid: int
    gid: int
    pid: int = 0
    groups: frozenset[int] = field(default_factory=frozenset)


class Lease(NamedTuple):
    """One client's hold on one region, until it says so or goes. `id` is unique in the host's life."""

    id: int
    peer: Peer
    since_ns: int
