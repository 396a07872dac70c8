"""Clients that hand back late what they have of a killed host, or never: see `core_machine`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from shmhost.core.window import STEP
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import close_all

if TYPE_CHECKING:
    from core_machine import Model


class Entry(NamedTuple):
    """A region that a client has mapped, and which no host knows it to have."""

    number: int
    address: int
    descriptor: int


class Late:
    """Such regions, until their clients hand them back, or the host gives all of them up."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._entries: list[Entry] = []

    def add(self, number: int, address: int, descriptor: int) -> None:
        """Note a region that is not handed back; the descriptor stays the caller's."""
        self._entries.append(Entry(number, address, os.dup(descriptor)))

    def come(self, who: int, which: int) -> None:
        """Have a client that waits for nothing hand one of them back."""
        clients = [each for each in self._model.clients if each.steps is None and not each.is_dead]
        if not clients or not self._entries:
            return
        entry = self._entries.pop(which % len(self._entries))
        fds = [os.dup(entry.descriptor)]
        clients[who % len(clients)].session.handle(m.Restore(1, (entry.number,)), fds)
        close_all([*fds, entry.descriptor])

    def check(self) -> None:
        """Each of them can be handed back, and nothing else is where it is mapped."""
        regions = self._model.registry.regions
        for number, address, _ in self._entries:
            assert number in regions or self._model.expected.find(number) is not None
            for region in regions.values():
                is_apart = region.span.end <= address or address + STEP <= region.span.address
                assert is_apart or (region.number, region.span.address) == (number, address)

    def give_up(self) -> None:
        """Take note that the host waits for none of them any more."""
        close_all([entry.descriptor for entry in self._entries])
        self._entries.clear()
