"""A killed predecessor, whose regions may come back, and the notes for a successor.

`machine.state_file` has the file, `core.expected` the regions that may come back.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

from shmhost.core.absentees import Absentees
from shmhost.core.expected import Expected, info_of
from shmhost.core.generations import numbers
from shmhost.core.hub import Hub
from shmhost.core.ledgers import Ledger
from shmhost.core.owning import settle_arena
from shmhost.core.records import LedgerRecord, Record
from shmhost.core.regions import Region
from shmhost.machine.returned import Returnables
from shmhost.machine.shm_names import ShmNames
from shmhost.machine.socket_file import Lock
from shmhost.machine.state_file import StateFile, open_state
from shmprotocol.wire.names import ChangeKind, State

# So long may a client take to notice the end of its host: one that is stopped, or swapped out.
EXPECT_S = 600.0
LOG = logging.getLogger("shmhost")


def take_up(path: str, lock: Lock, hub: Hub) -> StateFile | None:
    """Expect what a killed predecessor had, and note in the file what there is; None: there is no file.

    The caller closes the file. Nobody has an address of the registry before this.
    """
    state = open_state(path, lock)
    if state is None:
        return None
    hub.host = f"{state.family}.{state.starts}"
    hub.registry.numbers = numbers(state.first_number, state.store_number)
    _expect(hub, state, state.records, state.ledgers)
    # Above all that the hosts before have given: their owners may know ledgers that nobody hands back.
    hub.ledger_numbers = itertools.count((state.starts << 32) + 1)
    return state


def names_of(lock: Lock) -> ShmNames:
    """Return the names in /dev/shm of the host with this lock."""
    return ShmNames(f"shmhost-{lock.identity()}")


def find_names(lock: Lock, hub: Hub) -> ShmNames:
    """Return the names in /dev/shm, without those of a predecessor that nobody can hand back."""
    names = names_of(lock)
    names.sweep(hub.expected.has_object if hub.expected else _nothing)
    _take_returns(hub, names)
    return names


def _take_returns(hub: Hub, names: ShmNames) -> None:
    """Let clients hand back what is expected."""
    if not (hub.absent or (hub.expected is not None and hub.expected.may_return)):
        return
    hub.returnables = returnables = Returnables(names)
    hub.registry.accounts.is_taking_back = True

    def leave(record: Record) -> None:
        memory_object = returnables.left_by(record)
        if memory_object is not None:
            hub.registry.dispose(memory_object)

    if hub.expected is not None:
        hub.expected.leave = leave


def _nothing(_name: str, _device: int, _inode: int) -> bool:
    return False


def take_over(path: str, lock: Lock, hub: Hub, names: ShmNames) -> StateFile | None:
    """Go on with the notes of a host whose regions are here; None: there is no file."""
    state = open_state(path, lock)
    if state is None:
        return None
    registry = hub.registry
    registry.numbers = numbers(next(registry.numbers), state.store_number)
    noted = {region.record: region for region in registry.regions.values() if region.record}
    noted_ledgers = {ledger.record: ledger for ledger in hub.ledgers.values() if ledger.record}
    ledgers = [record for record in state.ledgers if record.offset not in noted_ledgers]
    _expect(hub, state, [record for record in state.records if record.offset not in noted], ledgers)
    _resume(hub, state, noted, noted_ledgers)
    for region in registry.regions.values():
        if region.generation and not region.record:  # the host before had no file
            state.enter(region)
            state.change(region)
    _take_returns(hub, names)
    return state


def _resume(hub: Hub, state: StateFile, noted: dict[int, Region], noted_ledgers: dict[int, Ledger]) -> None:
    """Take note of what was back with the host before."""
    assert hub.expected is not None
    assert hub.absent is not None
    for record in state.records:
        region = noted.get(record.offset)
        if region is not None and region.is_back:
            hub.expected.resume(record, region.window)
    for ledger_record in state.ledgers:
        if ledger_record.offset in noted_ledgers:
            hub.absent.resume(noted_ledgers[ledger_record.offset], ledger_record)
    for region in hub.registry.arenas:
        if region.arena is not None and region.arena.is_awaited:
            hub.absent.await_owner(region, region.arena)


def _expect(hub: Hub, state: StateFile, records: list[Record], ledgers: list[LedgerRecord]) -> None:
    registry = hub.registry
    registry.book = state
    registry.make_room = lambda: give_up(hub)
    hub.expected = Expected(registry, state.forget, state.retire)
    registry.expect_again = hub.expected.expect_again
    hub.expected.load(records)
    hub.expected.load_boards(state.boards)
    hub.absent = Absentees(registry, state.forget, lambda region: settle_arena(hub, region))
    hub.absent.load(ledgers)
    if hub.expected:
        LOG.info("%d regions of a host before may come back", len(hub.expected))


def give_up(hub: Hub) -> bool:
    """Expect no more what nobody has handed back, also once more; return whether that took addresses."""
    if hub.expected is None:
        return False
    had_addresses = hub.expected.takes_addresses
    if had_addresses:
        LOG.info("gave up %d regions of the host before: they were not handed back", len(hub.expected))
    hub.tell_of_gone(map(info_of, hub.expected.clear()))
    return had_addresses


def end_returns(hub: Hub, state: StateFile | None) -> None:
    """Take nothing back any more: who wanted to hand anything back has done so."""
    give_up(hub)
    hub.returnables = None
    hub.registry.accounts.is_taking_back = False
    if state is not None:
        state.forget_boards()


def noting(hub: Hub) -> Callable[[ChangeKind | State, Region], None]:
    """Return what takes note of a change of a region, and logs it: it is called twice for each put."""
    # † 16 ns by a local's name, 180 by that of a class of enum (2026-11).
    published, unlinked, superseded = ChangeKind.PUBLISHED, ChangeKind.UNLINKED, State.SUPERSEDED

    def note(kind: ChangeKind | State, region: Region) -> None:
        expected, stored = hub.expected, hub.stored
        if expected is not None and expected.named and kind is published:
            expected.give_way(region)
        if stored is not None and (kind is published or kind is unlinked):
            stored.touch(region.name)
        # A name is new or gone now and then; generations follow each other as often as requests do.
        # Of names that are back there is one line for many: it takes as long as all else that each needs.
        is_known = region.is_successor or region.is_back
        is_routine = is_known if kind is published else region.state is superseded
        level = logging.DEBUG if is_routine else logging.INFO
        if LOG.isEnabledFor(level):
            _log_change(level, kind, region)

    return note


def _log_change(level: int, kind: ChangeKind | State, region: Region) -> None:
    LOG.log(
        level,
        "%s %r generation %d: %d bytes at %#x, uid %d, mode %04o",
        kind,
        region.name,  # quoted: a name may have spaces, and characters that reverse a line
        region.generation,
        region.size,
        region.span.address,
        region.owner.uid,
        region.mode,
        extra={"uid": region.owner.uid},
    )
