"""Regions as an earlier host had them, rebuilt from its records. Pure; who calls has the objects."""

from __future__ import annotations

from bisect import insort

from shmhost.core.arenas import ARENA_FILES, Arena
from shmhost.core.objects import MemoryObject
from shmhost.core.records import Record
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD, WITH_WRITER, Registry
from shmhost.core.window import Window
from shmprotocol.abi.header import HEADER_SIZE, KIND_ARENA
from shmprotocol.errors import QuotaExceeded
from shmprotocol.wire.names import ChangeKind, Seal, State


def rebuild(
    registry: Registry, record: Record, window: Window, memory_object: MemoryObject, state: State
) -> Region:
    """Enter a region into the registry again, with its number and its addresses, which are taken already.

    CURRENT: an older region that has its name loses it.

    It has no leases yet: the caller grants some, or frees it if it is not CURRENT. A current one gets a line
    of the board. Its bytes are charged even if they are over the budget: they are in use.
    QuotaExceeded: there is no line for an arena, which needs one in any state.
    """
    region = _region_of(registry, record, window, memory_object)
    if record.kind == KIND_ARENA:
        _make_arena(registry, record, region)
    elif region.extent:
        _charge_room(registry, region, region.extent)
    registry.regions[region.number] = region
    insort(registry.order, region.number)
    if region.seal is Seal.SHARED or region.extent:
        registry.shared.add(region)
    region.state = state
    region.tally = registry.tallies.add(state, region.owner.uid, region.capacity)
    if state is State.CURRENT:
        _name(registry, region)
    return region


def _region_of(registry: Registry, record: Record, window: Window, memory_object: MemoryObject) -> Region:
    """Return the region of a record, which is charged, and in no table."""
    is_arena, can_grow = record.kind == KIND_ARENA, record.extent > 0
    capacity = memory_object.capacity if can_grow else record.capacity  # it may have grown
    size, room = (capacity - HEADER_SIZE,) * 2 if can_grow else (record.size, record.room)
    files = ARENA_FILES if is_arena else WITH_WRITER if record.seal is Seal.SHARED or can_grow else 1
    return Region(
        number=record.number,
        owner=record.owner,
        room=room,
        capacity=capacity,
        span=record.span,
        window=window,
        charge=registry.accounts.of(record.owner.uid).take(capacity + REGION_OVERHEAD, files),
        name=record.name,
        mode=record.mode,
        seal=record.seal,
        backend=record.backend,
        object=memory_object,
        size=size,
        generation=record.generation,
        created_ns=record.created_ns,
        rights=record.rights,
        kind=record.kind,
        record=record.offset,
        extent=0 if is_arena else record.extent,
        is_back=True,
    )


def _make_arena(registry: Registry, record: Record, region: Region) -> None:
    lines = registry.accounts.of(record.owner.uid).lines
    line = registry.lines.take(registry.board, lines) if registry.board.names else 0
    if not line:
        region.charge.release()
        raise QuotaExceeded(f"the board has no line for the arena {record.name!r}")
    _charge_room(registry, region, record.extent)
    region.line = line
    region.arena = Arena(record.extent, record.keep, line, region.capacity, registry.board, record.generation)
    region.arena.process = record.process
    region.arena.move(registry.board, line)
    registry.arenas.add(region)


def _charge_room(registry: Registry, region: Region, extent: int) -> None:
    """Charge an arena, and the addresses to grow into, whatever the limits are: they are taken."""
    accounts = registry.accounts
    account = accounts.of(region.owner.uid)
    accounts.is_adopting, was_adopting = True, accounts.is_adopting
    try:
        if region.kind == KIND_ARENA:
            region.charge.also(account.arenas, 1)
        if not accounts.are_addresses_scarce:
            region.charge.also(account.addresses, extent - region.capacity)
    finally:
        accounts.is_adopting = was_adopting


def _name(registry: Registry, region: Region) -> None:
    older = registry.current.get(region.name)
    registry.assign_line(region)
    registry.board.set(region.line, region.number, region.generation)
    if older is not None and older.line != region.line:  # an arena shares none
        registry.board.set(older.line, 0, 0)
    registry.current[region.name] = region
    if older is None:
        insort(registry.names, region.name)
    region.is_successor = older is not None
    registry.note(ChangeKind.PUBLISHED, region)
    if older is not None:
        registry.retire(older, State.SUPERSEDED)
