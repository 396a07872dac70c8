"""A replica in the registry: its address, charge and name, as for a creation, as its original has them. Pure.

It has the address of its original. Its generation is at least that of the original, and above all that its
name had here, so that the order is never reversed at a reader. Its mode has no right to write: a name is
published where it comes from.
"""

from __future__ import annotations

from shmhost.core.headers import header_of
from shmhost.core.hub import Hub
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, WITH_WRITER, Registry
from shmhost.fleet.announcements import Announcement
from shmprotocol.abi.header import FLAG_SEAL_FULL, Header
from shmprotocol.errors import AddressConflict, RegionBusy, RegionExists
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, State

# Numbers of others are taken up to here, so that no peer can use up those of this host; see `Generations`.
FOREIGN_MAX = 2**48
READERS = 0o404  # of a mode: owner and others; the group of the original is not known here


def begin(registry: Registry, announcement: Announcement, owner: Peer, replica: Region | None) -> Region:
    """Take name, address and bytes for a replica, which has no object yet; or refuse.

    `replica`: the one that it replaces. RegionExists: a region of this host has the name.
    """
    name, current = announcement.name, registry.current.get(announcement.name)
    if current is not None and current is not replica:
        raise RegionExists(f"{name!r} is the name of a region that was published on this host")
    if name in registry.creating:
        raise RegionBusy(f"{name!r} is being created on this host")
    capacity, span = announcement.capacity, announcement.span
    charge = registry.accounts.of(owner.uid).charge_region(capacity + REGION_OVERHEAD, WITH_WRITER, capacity)
    window = registry.allocator.claim(span)
    if window is None:
        charge.release()
        raise AddressConflict(
            f"{name!r} cannot be here at {span.address:#x}, {span.size} bytes: a part of that is in use, or "
            "in no window"
        )
    region = Region(
        next(registry.numbers), owner, announcement.room, capacity, span, window, charge, name,
        announcement.mode & READERS,
    )  # fmt: skip
    registry.creating[name] = region
    registry.add(region, State.CREATING)
    try:
        registry.check_place(region)
        header(registry, region, announcement)  # its pointers
    except BaseException:
        registry.abort(region)
        raise
    return region


def header(registry: Registry, region: Region, announcement: Announcement) -> Header:
    """Return the header that a replica gets. InvalidArgument: the original's points outside."""
    older, generations = registry.current.get(region.name), registry.generations
    generation = generations.next(older.generation if older is not None else None)
    if generation < announcement.generation <= FOREIGN_MAX:
        generation = generations.next(announcement.generation - 1)
    publish = m.Publish(
        0,
        region.number,
        announcement.kind,
        announcement.data_size,
        announcement.root,
        announcement.root_size,
        announcement.metadata,
        announcement.metadata_size,
    )
    return header_of(region, publish, FLAG_SEAL_FULL, generation, announcement.created_ns)


def publish(hub: Hub, region: Region, header: Header, mode: int) -> None:
    """Make a replica, whose object is sealed with this header, the current region of its name.

    `mode` is that of its original now.
    """
    registry = hub.registry
    if region.mode != mode & READERS:
        region.mode = mode & READERS
        region.change_rights()
    region.size, region.kind = header.data_size, header.kind
    region.generation, region.created_ns = header.generation, header.created_ns
    registry.announce(region)
    if not region.line:
        hub.note_full_board(region)
    before = hub.replaced(registry.current.get(region.name), region)
    registry.publish(region)
    hub.tell(ChangeKind.PUBLISHED, region, before)


def chmod(hub: Hub, region: Region, mode: int) -> None:
    """Give a replica the mode of its original."""
    if region.mode == mode & READERS:
        return
    before = region.info()
    region.mode = mode & READERS
    region.change_rights()
    hub.registry.book.change(region)
    hub.registry.board.set_rights(region.line, region.rights)
    hub.registry.note(ChangeKind.CHANGED, region)
    hub.tell(ChangeKind.CHANGED, region, before)


def unlink(hub: Hub, region: Region) -> None:
    """Take the name of a replica away: its original is gone."""
    if region.state is State.CURRENT:
        hub.registry.hide(region)
        hub.tell(ChangeKind.UNLINKED, region)
