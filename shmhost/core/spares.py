"""The spares of one client: regions made ahead, without a name, which it fills and then names.

A spare saves its put a round trip. It is charged to the byte from the start, and the host can take it back at
any time: its object cannot grow, so that an empty one stays empty. Knows no socket or thread; of time what
the registry's clock says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shmhost.core.hub import Hub
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, Registry
from shmhost.core.work import PAUSE, Steps
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.errors import InvalidArgument, QuotaExceeded, RegionNotFound, ShmError
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import MAX_DESCRIPTORS, Backend, State

IDLE_NS = 1_000_000_000  # a client that puts in a loop uses its spare within milliseconds
MAX_AT_ONCE = MAX_DESCRIPTORS - 1  # beside the descriptor of what was published
IN_SLICE = 4  # objects, which take 10 us each
MAX_SPARES = 256  # of a connection: each is two descriptors of the host


class Spares:
    """The spares that one client has, and how many bytes of them it may have."""

    def __init__(self, hub: Hub, peer: Peer) -> None:
        self._hub = hub
        self._peer = peer
        self._regions: dict[int, tuple[Region, int]] = {}  # and since when
        self._reserved = 0
        self._is_closed = False

    def admit(self, sizes: Sequence[int]) -> list[Region]:
        """Return new spares for payloads of these sizes, as many as limits allow, without their objects."""
        limit = max(self._hub.spare_max, self._reserved)
        used = sum(region.capacity for region, _ in self._regions.values())
        regions: list[Region] = []
        for size in sizes[:MAX_AT_ONCE]:
            used += page_up(HEADER_SIZE + size)
            if size < 1 or used > limit or len(self._regions) + len(regions) >= MAX_SPARES:
                break
            try:
                regions.append(self._hub.registry.spare(size, self._peer))
            except QuotaExceeded:
                break
        return regions

    def make_objects(self, regions: list[Region]) -> Steps:
        """Give new spares their objects; those for which the system has none are freed, and taken out."""
        for index, region in enumerate(regions):
            if index and index % IN_SLICE == 0:
                yield PAUSE
            try:
                # At once: nobody else has it, and its pages come when they are touched.
                region.object = self._hub.make_object(Backend.MEMFD, "", region.capacity)
            except ShmError:
                while len(regions) > index:
                    self._hub.registry.abort(regions.pop())

    def add(self, regions: Sequence[Region]) -> None:
        """Note what the client gets."""
        for region in regions:
            self._regions[region.number] = region, self._hub.registry.clock()
        if self._regions and not self._is_closed:
            self._hub.spares.add(self)
            self._hub.note_spares()

    def record(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Return what is reserved, and the number of each spare with its time, for `resume`."""
        return self._reserved, tuple((number, since) for number, (_, since) in self._regions.items())

    def resume(self, reserved: int, spares: Iterable[tuple[Region, int]]) -> None:
        """Take the spares that the client has from another host, and what that has reserved for it."""
        self._reserved = reserved
        if reserved:
            self._hub.reserved[self._peer.uid] += reserved
        for region, since in spares:
            self._regions[region.number] = region, since
        if self._regions:
            self._hub.spares.add(self)
            self._hub.note_spares()

    def take(self, number: int) -> Region:
        """Take out the spare that the client names now, or gives back; RegionNotFound if it is gone."""
        region, _ = self._regions.pop(number, (None, 0))
        if region is None:
            raise RegionNotFound(f"the host has taken spare {number} back: create a region")
        self._settle()
        return region

    def find(self, number: int) -> Region | None:
        """Return a spare that the client has."""
        return self._regions.get(number, (None, 0))[0]

    def has(self, number: int) -> bool:
        """Whether the client has this spare."""
        return number in self._regions

    def take_all(self, now_ns: int | None = None) -> list[Region]:
        """Take all; with a time, none of a reserve, and none that is younger than IDLE_NS."""
        if now_ns is not None and self._reserved:
            return []
        regions = [
            region for region, since in self._regions.values() if now_ns is None or now_ns - since > IDLE_NS
        ]
        for region in regions:
            del self._regions[region.number]
        self._settle()
        return regions

    def keep(self, region: Region) -> None:
        """Take one again that could not be emptied: it is charged as long as the client may have it."""
        if self._is_closed:
            self._hub.registry.abort(region)
        else:
            self.add((region,))

    def reserve(self, size: int) -> int:
        """Take up to `size` bytes, in place of what was reserved before; return how many."""
        reserved = self._hub.reserved
        reserved[self._peer.uid] -= self._reserved
        self._reserved = min(size, max(0, self._hub.reserve_max - reserved[self._peer.uid]))
        reserved[self._peer.uid] += self._reserved
        if not reserved[self._peer.uid]:
            del reserved[self._peer.uid]
        return self._reserved

    def close(self) -> None:
        """Free all."""
        self._is_closed = True
        if self._reserved:
            self.reserve(0)
        if self._regions:
            for region in self.take_all():
                self._hub.registry.abort(region)

    def _settle(self) -> None:
        if not self._regions:
            self._hub.spares.discard(self)


def emptied(region: Region) -> None:
    """Empty the object of a spare that its client has no more. For a thread; OSError as `Memfd.empty`."""
    assert isinstance(region.object, Memfd)
    region.object.empty()


def fits_without_spares(registry: Registry, size: int, peer: Peer) -> bool:
    """Whether there would be room for a payload of a peer, but for the spares of all clients."""
    spare = registry.tallies.states().get(State.SPARE, (0, 0, 0))
    freed = spare[1] + spare[0] * REGION_OVERHEAD
    return registry.accounts.of(peer.uid).bytes.fits(page_up(HEADER_SIZE + size) + REGION_OVERHEAD, freed)


def as_create(request: m.Assign | m.Put, size: int) -> m.Create:
    """Return the request that asks for the same name."""
    if size < 1:
        raise InvalidArgument(f"a region has at least 1 byte, not {size}")
    return m.Create(request.id, request.name, size, "full", Backend.MEMFD, request.mode, request.replace)
