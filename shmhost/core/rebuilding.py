"""Regions as an earlier host had them, rebuilt from its records. Pure; who calls has the objects."""

from __future__ import annotations

from bisect import insort

from shmhost.core.objects import MemoryObject
from shmhost.core.records import Record
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, Registry
from shmhost.core.window import Window
from shmprotocol.wire.names import ChangeKind, State


def rebuild(
    registry: Registry, record: Record, window: Window, memory_object: MemoryObject, state: State
) -> Region:
    """Enter a region into the registry again, with its number and its addresses, which are taken already.

    CURRENT: an older region that has its name loses it.

    It has no leases yet: the caller grants some, or frees it if it is not CURRENT. A current one gets a line
    of the board. Its bytes are charged even if they are over the budget: they are in use.
    """
    region = Region(
        number=record.number,
        owner=record.owner,
        room=record.room,
        capacity=record.capacity,
        span=record.span,
        window=window,
        charge=registry.accounts.of(record.owner.uid).take(record.capacity + REGION_OVERHEAD, 1),
        name=record.name,
        mode=record.mode,
        seal=record.seal,
        backend=record.backend,
        object=memory_object,
        size=record.size,
        generation=record.generation,
        created_ns=record.created_ns,
        rights=record.rights,
        kind=record.kind,
        record=record.offset,
    )
    registry.regions[region.number] = region
    insort(registry.order, region.number)
    region.state = state
    region.tally = registry.tallies.add(state, region.owner.uid, region.capacity)
    if state is State.CURRENT:
        _name(registry, region)
    return region


def _name(registry: Registry, region: Region) -> None:
    older = registry.current.get(region.name)
    registry.assign_line(region)
    registry.board.set(region.line, region.number, region.generation)
    registry.current[region.name] = region
    if older is None:
        insort(registry.names, region.name)
    region.is_successor = older is not None
    registry.note(ChangeKind.PUBLISHED, region)
    if older is not None:
        registry.retire(older, State.SUPERSEDED)
