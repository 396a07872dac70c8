"""The identity of a client, for rights and the log. Pure; `machine.peers` asks the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peer:
    """The identity of the peer, from the kernel (SO_PEERCRED, SO_PEERGROUPS).

    `pid` is for people to read: it is 0 between sibling containers, so it grants nothing. It only keeps other
    processes of a user from handing back what is not theirs.
    """

    uid: int
    gid: int
    pid: int = 0
    groups: frozenset[int] = field(default_factory=frozenset)
