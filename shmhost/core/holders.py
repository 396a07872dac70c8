"""The holders of what a client asked for in vain: words for its refusal, as far as it may know. Pure."""

from __future__ import annotations

from heapq import nlargest
from itertools import islice

from shmhost.core.peers import Peer
from shmhost.core.regions import READ, Region
from shmhost.core.registry import Registry
from shmhost.core.shares import Pool, ShareExceeded
from shmprotocol.errors import ShmError
from shmprotocol.wire.names import State

LOOKED_AT = 128  # regions, the latest, in 20 us
NAMED = 3
_OF_REGIONS = ("bytes", "regions", "descriptors")  # that a region has taken


def text_of(error: ShmError, registry: Registry, peer: Peer) -> str:
    """Return the text for a refusal."""
    return (
        f"{error}{_holders(registry, error.pool, peer)}" if isinstance(error, ShareExceeded) else str(error)
    )


def users_of(pool: Pool) -> str:
    """Return which users have most of a resource; "" for none."""
    shares = nlargest(NAMED, pool.shares, key=lambda share: share.used)
    users = [f"uid {share.account.uid} has {share.used}" for share in shares if share.used]
    return f". Of all, {', '.join(users)}" if users else ""


def _holders(registry: Registry, pool: Pool, peer: Peer) -> str:
    """Return which users have most of a resource, and which regions that the peer may know; "" for none."""
    sentence = users_of(pool)
    if pool.name not in _OF_REGIONS:
        return sentence
    latest = (registry.regions[number] for number in islice(reversed(registry.order), LOOKED_AT))
    some = [region for region in latest if may_know(region, peer)]
    named = [described(region) for region in nlargest(NAMED, some, key=lambda region: region.capacity)]
    return f"{sentence}; among them {', '.join(named)}" if named else sentence


def may_know(region: Region, peer: Peer) -> bool:
    """Whether a peer may learn of a region by a refusal."""
    return (region.owner.uid == peer.uid and region.name != "") or bool(
        region.generation and region.allows(peer, READ)
    )


def described(region: Region) -> str:
    """Return the words for a region."""
    state = "" if region.state is State.CURRENT else f", {region.state}"
    owner = region.owner
    return f"{region.name!r} ({region.capacity} bytes{state}, uid {owner.uid}, pid {owner.pid})"
