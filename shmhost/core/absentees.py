"""Ledgers, and owners of arenas, that a killed host knew and that are not back. Pure.

A ledger that had joined an arena may have holds of its values as long as the client's process lives, handed
back or not; and an owner that lives may write, and has the arena mapped. Both are over when their process is.
So the arena has a lease of such an owner: its addresses are nobody else's, whatever becomes of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from shmhost.core.arenas import Arena
from shmhost.core.ledgers import Ledger
from shmhost.core.processes import Process
from shmhost.core.records import LedgerRecord
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmprotocol.wire.names import State

LOOKED_AT = 32  # processes at once: a look takes 20 us


class Absentees:
    """Ledgers and owners that are not back. `forget` notes for a successor that a ledger is no more.

    `settle` is called for an arena whose owner has ended, and which is to `leave`.
    """

    def __init__(
        self, registry: Registry, forget: Callable[[int], None], settle: Callable[[Region], None]
    ) -> None:
        self._registry = registry
        self._forget = forget
        self._settle = settle
        self._ledgers: dict[int, LedgerRecord] = {}
        self._back: dict[int, tuple[Ledger, LedgerRecord]] = {}  # whose arenas may be back later
        self._arenas: dict[int, Region] = {}  # that are back, with an owner who is not

    def __bool__(self) -> bool:
        return bool(self._ledgers or self._arenas)

    def load(self, records: Iterable[LedgerRecord]) -> None:
        """Expect ledgers."""
        self._ledgers |= {record.number: record for record in records}

    def highest(self) -> int:
        """Return the highest number of a ledger; 0: there is none."""
        return max(self._ledgers, default=0)

    def find(self, number: int) -> LedgerRecord | None:
        """Return the record of a ledger that is not back."""
        return self._ledgers.get(number)

    def put_back(self, ledger: Ledger, regions: Iterable[Region]) -> None:
        """Take note that a ledger is back, and have the owners of its arenas know."""
        record = self._ledgers.pop(ledger.number)
        self._back[ledger.number] = ledger, record
        for region in regions:
            if region.arena is not None and ledger.number in region.arena.awaited:
                region.arena.restore(ledger)

    def resume(self, ledger: Ledger, record: LedgerRecord) -> None:
        """Take note of a ledger that was back with another host."""
        self._back[ledger.number] = ledger, record

    def end(self, ledger: Ledger) -> None:
        """Take note that a ledger which was back has ended."""
        self._back.pop(ledger.number, None)

    def enter(self, region: Region, arena: Arena) -> None:
        """Take note that an arena is back: these ledgers may have holds of its values."""
        number = region.number
        arena.awaited = {each.number for each in self._ledgers.values() if each.has_joined(number)}
        for ledger, record in self._back.values():
            if record.has_joined(number):
                arena.restore(ledger)
        arena.move(arena.board, arena.line)  # its words, with those who may sleep

    def await_owner(self, region: Region, arena: Arena) -> None:
        """Take note that the owner of an arena may have it mapped, and is not connected."""
        self._arenas[region.number] = region
        if not arena.owner_lease:
            arena.owner_lease = self._registry.lease(region, region.owner)
            self._registry.accounts.of(region.owner.uid).leases.add(1)

    def leave(self, region: Region) -> None:
        """Take note that the owner of an arena is back, with a lease of its own, or has ended."""
        self._arenas.pop(region.number, None)
        if region.arena is not None and region.arena.owner_lease:
            lease, region.arena.owner_lease = region.arena.owner_lease, 0
            self._registry.accounts.of(region.owner.uid).leases.give(1)
            self._registry.release(region, lease)

    def look(self, is_gone: Callable[[Process], bool], regions: Iterable[Region]) -> None:
        """Look whether some of the processes have ended; others the next time."""
        self._look_for_owners(is_gone)
        self._look_for_ledgers(is_gone, [region.arena for region in regions if region.arena is not None])

    def _look_for_owners(self, is_gone: Callable[[Process], bool]) -> None:
        for number in list(self._arenas)[:LOOKED_AT]:
            region = self._arenas.pop(number)
            if region.arena is None or region.state is State.FREED:
                continue
            if is_gone(region.arena.process):
                self._settle(region)
            else:
                self._arenas[number] = region

    def _look_for_ledgers(self, is_gone: Callable[[Process], bool], arenas: Iterable[Arena]) -> None:
        for number in list(self._ledgers)[:LOOKED_AT]:
            record = self._ledgers.pop(number)
            if not is_gone(record.process):
                self._ledgers[number] = record
                continue
            self._forget(record.offset)
            for arena in arenas:
                arena.give_up(number)
