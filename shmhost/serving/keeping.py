"""Ends in time what the host keeps for references on their way."""

from __future__ import annotations

import asyncio
import time

from shmhost.core.hub import Hub

LOOK_AGAIN_S = 1.0  # at the earliest: what is over goes in parts, beside requests


class Expiry:
    """The clock of a hub's Keeping. For the loop's thread alone."""

    def __init__(self, hub: Hub) -> None:
        self._loop = asyncio.get_running_loop()
        self._hub = hub
        self._timer: asyncio.TimerHandle | None = None
        hub.keeping.clock, hub.keeping.note = time.monotonic_ns, self._watch
        self._watch()  # what another host has kept

    def close(self) -> None:
        """Look no more: the host ends, and frees all."""
        self._hub.keeping.note = lambda: None
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        if self._timer is not None:
            return
        end_ns = self._hub.keeping.next_end_ns()
        if end_ns is not None:
            left_s = max((end_ns - time.monotonic_ns()) / 1e9, LOOK_AGAIN_S)
            self._timer = self._loop.call_later(left_s, self._end)

    def _end(self) -> None:
        self._timer = None
        self._hub.run_ends(0, self._hub.keeping.expiring())
        self._watch()
