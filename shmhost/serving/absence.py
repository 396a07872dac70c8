"""Looks now and then what has come back of an earlier host, and whether processes have ended that it knew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from shmhost.core.hub import Hub
from shmhost.core.regions import Region
from shmhost.machine.processes import is_gone

LOG = logging.getLogger("shmhost")

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
        self._returned = 0  # regions of which the log has a line

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
        self._note_returned()
        self.begin()

    def _note_returned(self) -> None:
        expected = self._hub.expected
        if expected is not None and expected.returned != self._returned:
            LOG.info("%d regions of a host before are back", expected.returned - self._returned)
            self._returned = expected.returned
