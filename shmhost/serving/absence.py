"""Looks now and then whether processes have ended that an earlier host knew, and that have not come back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from shmhost.core.hub import Hub
from shmhost.core.regions import Region
from shmhost.machine.processes import is_gone

LOOK_AGAIN_S = 0.1


def has_closed(regions: Iterable[Region]) -> bool:
    """Whether the owner of an arena has not come back yet."""
    return any(region.arena is not None and not region.arena.is_open for region in regions)


class Absence:
    """The looks, from the start until there is nothing to look for. For the loop's thread alone."""

    def __init__(self, hub: Hub) -> None:
        self._loop = asyncio.get_running_loop()
        self._hub = hub
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Look from now on."""
        hub = self._hub
        if hub.absent is not None and (hub.absent or hub.returnables or has_closed(hub.registry.arenas)):
            self._timer = self._loop.call_later(LOOK_AGAIN_S, self._look)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        absent = self._hub.absent
        assert absent is not None
        absent.look(is_gone, self._hub.registry.arenas)
        self.begin()
