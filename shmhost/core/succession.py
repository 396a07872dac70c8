"""A region that is published as soon as it is made: with no state in which others could meet it. Pure.

The most frequent one follows a region of the same size that nobody has mapped any more. It inherits the
charge, the tally and the line of the board, which then need not be counted out and in again.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from shmhost.core.accounts import Charge
from shmhost.core.peers import Peer
from shmhost.core.regions import WRITE, Region
from shmhost.core.registry import CURRENT, REGION_OVERHEAD, Registry
from shmprotocol.abi.header import HEADER_SIZE, KIND_DATA, page_up
from shmprotocol.wire.names import Backend, ChangeKind, Seal, State, check_name

# † 16 ns by names of a module, 180 by those of a class of enum (2026-11): a put looks at nine of them.
_SUPERSEDED, _FREED = State.SUPERSEDED, State.FREED
_PUBLISHED, _FULL, _SHARED, _MEMFD = ChangeKind.PUBLISHED, Seal.FULL, Seal.SHARED, Backend.MEMFD


def begin(
    registry: Registry, older: Region | None, name: str, mode: int, replace: bool, size: int, peer: Peer
) -> Region | None:
    """Return a region to be sealed, which has no object yet and follows the current one of its name, if any.

    The budget has room for it. None, and nothing is taken: the name is being created, `replace` or the rights
    forbid it, an arena may be in the way, or no address is left. InvalidArgument: it is not a name.
    QuotaExceeded: no generation is left, or the peer may have no more regions.
    """
    if name in registry.creating:
        return None
    if older is None:
        check_name(name)
        if registry.arenas and "/" in name:  # it may lie below one
            return None
    elif not replace or older.arena is not None or not older.allows(peer, WRITE):
        return None
    policy = registry.accounts.policy
    if policy.has_names and policy.refuses_put(name, size, peer):
        return None
    capacity = page_up(HEADER_SIZE + size)
    generation = registry.generations.next(None if older is None else older.generation)
    legacy = _legacy_of(older, capacity, peer)
    # Before anything is taken: a limit of regions may refuse it.
    charge = _charge(registry, capacity, peer) if legacy is None else legacy.charge
    room = registry.allocator.take(capacity)
    if room is None:
        if legacy is None:
            charge.release()
        return None
    tally = registry.tallies.add(CURRENT, peer.uid, capacity) if legacy is None else legacy.tally
    number, (span, window) = next(registry.numbers), room
    region = Region(number, peer, size, capacity, span, window, charge, name, mode, _FULL, _MEMFD, tally)
    region.state, region.generation, region.created_ns = CURRENT, generation, registry.clock()
    region.kind = KIND_DATA
    if older is not None and charge is older.charge and older.line:
        region.line, region.rights = older.line, older.rights
    else:
        registry.assign_line(region)
    return region


def _legacy_of(older: Region | None, capacity: int, peer: Peer) -> Region | None:
    """Return the older region if it goes at once, and all that is counted for it can be for the next one."""
    if (
        older is None
        or older.leases
        or older.capacity != capacity
        or older.owner.uid != peer.uid
        or older.backend is not _MEMFD
        or older.seal is _SHARED
        or older.extent
        or older.is_back
    ):
        return None
    return older


def _charge(registry: Registry, capacity: int, peer: Peer) -> Charge:
    return registry.accounts.of(peer.uid).charge_region(capacity + REGION_OVERHEAD, 1, capacity)


def complete(registry: Registry, region: Region, older: Region | None) -> None:
    """Make a region the current one of its name; the board and its creator know of it."""
    registry.current[region.name] = registry.regions[region.number] = region
    registry.order.append(region.number)
    if older is None:
        insort(registry.names, region.name)
        registry.note(_PUBLISHED, region)
        return
    region.is_successor = True
    registry.note(_PUBLISHED, region)
    if region.charge is older.charge:
        _bury(registry, older)
    else:
        registry.retire(older, _SUPERSEDED)


def give_up(registry: Registry, region: Region, older: Region | None) -> None:
    """Undo `begin`, whatever the board said in between: the older region has stayed the current one."""
    is_shared = older is not None and older.line == region.line  # not if that got none of a full board
    number, generation = (older.number, older.generation) if older is not None and is_shared else (0, 0)
    registry.board.set(region.line, number, generation)
    is_own_line = older is None or region.line != older.line or region.charge is not older.charge
    if is_own_line and registry.board.release(region.line):
        registry.lines.give_back(region.line)
    if older is None or region.charge is not older.charge:
        region.charge.release()
        registry.tallies.move(region.tally, _FREED, region.owner.uid, region.capacity, 0)
    region.state = _FREED
    registry.allocator.give(region.span)
    registry.book.remove(region)
    if region.object is not None:
        region.object.close()


def _bury(registry: Registry, older: Region) -> None:
    """Free a region whose charge, tally and line are its successor's."""
    older.state = _SUPERSEDED
    registry.note(_FREED, older)
    older.state = _FREED
    registry.book.remove(older)
    del registry.regions[older.number]
    del registry.order[bisect_left(registry.order, older.number)]
    older.window.give(older.span)
    assert older.object is not None
    older.object.close()  # quick: as small as its successor
