"""Regions that grow in place, at the request of their owners. Knows no socket and no clock.

The kernel's size of the object is what everybody goes by: it only grows (F_SEAL_SHRINK), so that a reader who
has seen a size can read up to it for good, and nobody can be told a size that is not there. The host alone
is asked, as it charges the bytes; the addresses have been taken since the region was created.
"""

from __future__ import annotations

from typing import Protocol, cast

from shmhost.core.hub import Hub
from shmhost.core.leases import Send
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.work import Steps, Work
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.errors import AccessDenied, InvalidArgument, QuotaExceeded, RegionBusy, RegionNotFound
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, State


class Growable(Protocol):
    """The object of a region that can grow; `machine.growing_memory` has it."""

    def grow(self, capacity: int) -> None:
        """Give it more bytes. Not for the event loop: whoever writes makes it wait. OSError, ShmError."""

    def is_larger(self) -> bool:
        """Whether somebody else has made it larger than it is charged for."""


def resize(hub: Hub, peer: Peer, request: m.Resize, send: Send) -> Steps:
    """Make the object of a region larger, if it is not so large yet; the reply is Done."""
    region = _find(hub, peer, request.region)
    capacity = page_up(HEADER_SIZE + request.size)
    if capacity > region.extent:
        most = region.extent - HEADER_SIZE if region.extent else region.size
        raise InvalidArgument(
            f"{region.name!r} cannot have {request.size} bytes, but {most}: create it with a larger max_size"
        )
    if region.is_busy:
        raise RegionBusy(f"{region.name!r} is being made larger by another request: try again")
    if capacity > region.capacity:
        yield from _grow(hub, peer, region, capacity)
    send(m.Done(request.id), ())


def _find(hub: Hub, peer: Peer, number: int) -> Region:
    region = hub.registry.regions.get(number)
    if region is None or not region.is_visible(peer) or region.state is not State.CURRENT:
        raise RegionNotFound(
            f"region {number} is not the current one of its name any more, and so does not grow"
        )
    if peer.uid not in (0, region.owner.uid):
        raise AccessDenied(
            f"uid {peer.uid} may not make {region.name!r} larger: it belongs to uid {region.owner.uid}, who "
            "is charged for it"
        )
    return region


def _grow(hub: Hub, peer: Peer, region: Region, capacity: int) -> Steps:
    registry, before, info = hub.registry, region.capacity, region.info()
    memory_object = cast(Growable, region.object)
    registry.resize(region, capacity)
    lease = registry.lease(region, peer)  # so that it is not freed while a thread is at work on its object
    region.is_busy = True
    try:
        yield Work(lambda: memory_object.grow(capacity), is_quick=False, can_be_left=True)
        region.extend(capacity)
    except BaseException:
        if region.state is not State.FREED:
            registry.resize(region, before)
        raise
    finally:
        region.is_busy = False
        if region.state is not State.FREED:
            registry.release(region, lease)
    if region.state is State.CURRENT:
        registry.note(ChangeKind.CHANGED, region)
        hub.tell(ChangeKind.CHANGED, region, info)


def end_if_larger(hub: Hub, peer: Peer, region: Region) -> None:
    """Unlink a region whose creator goes, if somebody has made it larger without the host."""
    if region.state is not State.CURRENT or not cast(Growable, region.object).is_larger():
        return
    error = QuotaExceeded(
        f"the region {region.name!r} was made larger than the {region.capacity} bytes that are charged "
        "for it: it is unlinked"
    )
    hub.warn(peer, error)
    hub.registry.hide(region)
    hub.tell(ChangeKind.UNLINKED, region)
