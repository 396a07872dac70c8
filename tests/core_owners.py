"""What the owners of arenas do and have mapped, as they know it themselves: see `core_machine`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core_machine import Model
    from shmhost.core.regions import Region


class Owners:
    """The arenas that were published, by their numbers. A process that was dropped gives its addresses up."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pids: dict[int, int] = {}
        self._mapped: set[int] = set()
        self._left: set[int] = set()

    def leave(self, number: int) -> None:
        """Have an owner say that it writes no more."""
        self._left.add(number)

    def end(self, region: Region, *, is_by_owner: bool) -> None:
        """End the conversation of an owner; it says nothing if that looks at the board of an earlier host."""
        assert region.arena is not None
        if is_by_owner and region.arena.is_open:
            self._left.add(region.number)
        if not is_by_owner or region.arena.is_open:
            self._mapped.discard(region.number)

    def give_up(self) -> None:
        """Have the host expect nothing back any more."""
        self._model.expected.clear()
        self._model.late.give_up()
        self._mapped &= set(self._model.registry.regions)

    def may_write(self, region: Region) -> bool:
        """Whether an owner that the host does not know any more may write."""
        return region.number not in self._left and self._pids.get(region.number) in self._model.pids

    def leased(self) -> Counter[int]:
        """Return the arenas that have the lease of an owner who is not connected."""
        leases = {
            region.number: region.arena.owner_lease for region in self._model.registry.arenas if region.arena
        }
        return Counter(number for number, lease in leases.items() if lease)

    def leases(self) -> Counter[int]:
        """Return how many of them each uid has."""
        regions = self._model.registry.regions
        return Counter(regions[number].owner.uid for number in self.leased())

    def check(self) -> None:
        """No addresses are given away that an owner has mapped."""
        for control in self._model.open_controls():
            region = control.owner._region  # type: ignore[attr-defined]
            if region.generation:
                self._pids[region.number] = region.owner.pid
                self._mapped.add(region.number)
        for number in self._mapped:
            is_known = number in self._model.registry.regions or self._model.expected.find(number) is not None
            assert is_known or self._pids[number] not in self._model.pids
