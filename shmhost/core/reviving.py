"""How a region of a killed host comes back to life, with an object that a client or a store has. Pure.

An arena is back at once, but nobody joins it while its owner may look at the board of the host before: that
owner would use again what a new reader holds. Its addresses stay taken as long as its owner may have it
mapped.
"""

from __future__ import annotations

from shmhost.core.arenas import Arena
from shmhost.core.expected import Expected
from shmhost.core.hub import Hub, Returnables
from shmhost.core.objects import refusal_of
from shmhost.core.records import OwnerState, Record
from shmhost.core.regions import Region
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.wire.names import State


def revive(hub: Hub, record: Record, descriptor: int) -> Region:
    """Enter the region of a record, whose object a descriptor is of, into the registry.

    The descriptor stays the caller's. OutOfMemory: the system has no descriptor left. QuotaExceeded: an arena
    finds no line. Nothing has changed then, so that it can be tried again. Unsupported: the system refuses it
    for another reason.
    """
    expected, machine = _parts(hub)
    try:
        memory_object = machine.adopt(record, descriptor)
    except OSError as error:
        raise refusal_of(error, f"take {record.name!r} back") from None
    state = record.owner_state if record.kind == KIND_ARENA else OwnerState.GONE
    if state is not OwnerState.GONE and machine.is_gone(record.process):
        state = OwnerState.GONE
    is_over = record.kind == KIND_ARENA and state is not OwnerState.WRITES and not record.keep
    try:
        region = expected.revive(record, memory_object, is_over=is_over)
    except BaseException:
        memory_object.close()
        raise
    if region.arena is not None:
        _find_owner(hub, region, region.arena, state)
    return region


def free_unused(hub: Hub, region: Region) -> None:
    """Free a region that is not current, if nobody has a lease of it that could end."""
    if region.state is not State.CURRENT and not region.leases:
        hub.registry.release(region, hub.registry.lease(region, region.owner))


def _find_owner(hub: Hub, region: Region, arena: Arena, state: OwnerState) -> None:
    assert hub.absent is not None
    arena.is_open = state is not OwnerState.WRITES
    hub.absent.enter(region, arena)
    if state is OwnerState.GONE:
        hub.registry.book.note_owner(region, state)
    else:
        hub.absent.await_owner(region, arena)


def _parts(hub: Hub) -> tuple[Expected, Returnables]:
    assert hub.expected is not None
    assert hub.returnables is not None
    return hub.expected, hub.returnables
