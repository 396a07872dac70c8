"""The refusal of addresses that a creator asks for, and that are taken: words for who has them. Pure."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from shmhost.core.holders import described, may_know
from shmhost.core.peers import Peer
from shmhost.core.regions import RETIRED, Region
from shmhost.core.registry import Registry
from shmhost.core.window import AddressTaken, Span
from shmhost.core.work import PAUSE, Work
from shmprotocol.errors import AddressConflict

LOOKED_AT = 1000  # regions at a time: 0.1 ms
NAMED = 3  # of the clients that use a region


def explained(error: AddressTaken, registry: Registry, peer: Peer) -> Generator[Work, Any, AddressConflict]:
    """Return the refusal for a peer: what has the addresses, as far as it may know, and what to do."""
    region = yield from _holder(registry, error.span)
    if region is None:
        why = "they are kept for what clients of an earlier host may hand back: wait some minutes"
    elif may_know(region, peer):
        why = f"{described(region)} has them{_users(region)}"
    else:
        why = f"uid {region.owner.uid} has them: wait until it gives them up"
    return AddressConflict(f"{error}: {why}, or take any address")


def _holder(registry: Registry, span: Span) -> Generator[Work, Any, Region | None]:
    """Return a region that has some of the addresses."""
    start = 0
    while numbers := registry.order[start : start + LOOKED_AT]:
        for number in numbers:
            other = registry.regions[number].span
            if other.address < span.end and span.address < other.end:
                return registry.regions[number]
        start += LOOKED_AT
        yield PAUSE
    return None


def _users(region: Region) -> str:
    pids = sorted({peer.pid for peer, _ in region.leases.values()})
    if not pids:
        return ": unlink it (`shmhost rm`)"
    until = "" if region.state in RETIRED else "unlinked or replaced, and "
    more = f" and {len(pids) - NAMED} more" if len(pids) > NAMED else ""
    return (
        f", and pid {', '.join(map(str, pids[:NAMED]))}{more} may use it: wait until it is {until}closed by "
        "all (`shmhost who`)"
    )
