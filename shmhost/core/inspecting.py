"""The answer to an Inspect: regions and their holders, packed piece by piece. Pure.

One region may have 4096 holders in it, which takes 3 ms to gather and pack: so this stops now and then, and
others go first. The later ones may have changed meanwhile.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right

import msgpack

from shmhost.core.leases import Send
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.work import PAUSE, Steps
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Packed, pack_list

MAX_HOLDERS = 4096  # leases in an Inspected: of 50 bytes at most each, beside the regions
MAX_INSPECTED = 64  # regions in one answer: of 500 bytes at most each; sending it takes 30 us
SLICE = 16  # holders between pauses: about 20 us
REGIONS = 2  # likewise, with few holders
LOOKS = 64  # likewise, at regions that are not asked for

_PAIR = b"\x92"  # the header of an array of 2: an Inspection has an info and holders


class Inspection:
    """One answer that is being made for a peer."""

    def __init__(self, registry: Registry, peer: Peer, request: m.Inspect, send: Send) -> None:
        self._registry = registry
        self._peer = peer
        self._request = request
        self._send = send
        self._items: list[bytes] = []
        self._room = MAX_HOLDERS
        self._more = False

    def steps(self) -> Steps:
        """Gather the answer and send it. At least one region is in it if there is one."""
        number = self._request.after
        for looked in itertools.count(1):
            region = self._following(number)
            if region is None or not self._has_room(region):
                break
            number = region.number
            is_meant = self._is_meant(region)
            if is_meant:
                yield from self._add(region)
            if (is_meant and len(self._items) % REGIONS == 0) or looked % LOOKS == 0:
                yield PAUSE
        request = self._request.id
        self._send(Packed(request, pack_list(m.Inspected, request, self._items, self._more)), ())

    def _following(self, number: int) -> Region | None:
        """Return the region in any state with the next larger number."""
        order = self._registry.order
        index = bisect_right(order, number)
        return self._registry.regions[order[index]] if index < len(order) else None

    def _is_meant(self, region: Region) -> bool:
        return region.name.startswith(self._request.prefix) and region.is_visible(self._peer)

    def _has_room(self, region: Region) -> bool:
        if not self._items or not self._is_meant(region):
            return True
        self._more = len(region.leases) > self._room or len(self._items) == MAX_INSPECTED
        return not self._more

    def _add(self, region: Region) -> Steps:
        info = msgpack.packb(region.info())
        holders: list[bytes] = []
        for number, (peer, since_ns) in list(itertools.islice(region.leases.items(), MAX_HOLDERS)):
            holders.append(msgpack.packb((number, peer.uid, peer.gid, peer.pid, since_ns)))
            if len(holders) % SLICE == 0:
                yield PAUSE
        self._room -= len(holders)
        head = msgpack.Packer().pack_array_header(len(holders))
        self._items.append(b"".join((_PAIR, info, head, *holders)))
