"""The answer to a List: the names that a peer may see, among others. Pure.

Of any number of names a peer may see none: so a few are looked at in one go, and others go first then.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgpack

from shmhost.core.leases import Send
from shmhost.core.names import page
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.work import PAUSE, Steps
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Packed, pack_list

MAX_PAGE = 32  # regions in a Listed
MAX_LOOKS = 64  # names between pauses, which takes 20 us
SLICE = 2  # regions that are packed between pauses, likewise


def listing(registry: Registry, peer: Peer, request: m.List, send: Send) -> Steps:
    """Gather an answer and send it."""
    items: list[bytes] = []
    more = False
    for region in _visible(registry, peer, request):
        if region is not None and len(items) == MAX_PAGE:
            more = True
            break
        if region is not None:
            items.append(msgpack.packb(region.info()))
        if region is None or len(items) % SLICE == 0:
            yield PAUSE
    send(Packed(request.id, pack_list(m.Listed, request.id, items, more)), ())


def _visible(registry: Registry, peer: Peer, request: m.List) -> Iterator[Region | None]:
    """Yield the regions that are asked for, as long as they are there, and None now and then."""
    after, more = request.after, True
    while more:
        names, more = page(registry.names, request.prefix, after, MAX_LOOKS)
        for name in names:
            region = registry.current.get(name)
            if region is not None and region.is_visible(peer):
                yield region
            after = name
        yield None
