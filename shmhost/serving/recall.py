"""Spares that the host takes back: idle ones, and all of them when memory is short. Threads empty them.

A client that writes into a spare makes that wait, so each uid has a lane for it, as for its sealing.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from shmhost.core.hub import Hub, Spares
from shmhost.core.regions import Region
from shmhost.core.spares import IDLE_NS, emptied
from shmhost.serving.workers import Outcome, Workers

RECALL_S = 0.1  # for spares to be emptied, while a request waits for their memory


class Recall:
    """The calls of a hub for its spares, while the loop runs. Made and used in the loop's thread alone."""

    def __init__(self, hub: Hub, workers: Workers) -> None:
        self._loop = asyncio.get_running_loop()
        self._hub = hub
        self._workers = workers
        self._timer: asyncio.TimerHandle | None = None
        hub.recall, hub.note_spares = self.take_all, self._watch

    def take_all(self) -> Callable[[], object] | None:
        """Start to take back all spares; return a call that waits for that, or None if there are none."""
        spares = [(owner, region) for owner in list(self._hub.spares) for region in owner.take_all()]
        if not spares:
            return None
        left, done = iter(range(len(spares) - 1, -1, -1)), threading.Event()

        def count() -> None:
            if next(left) == 0:
                done.set()

        for owner, region in spares:
            self._take_back(owner, region, count)
        return lambda: done.wait(RECALL_S)

    def close(self) -> None:
        """Take no more back: the host ends, and frees all."""
        self._hub.recall, self._hub.note_spares = lambda: None, lambda: None
        if self._timer is not None:
            self._timer.cancel()

    def _watch(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(IDLE_NS / 1e9, self._end_idle)

    def _end_idle(self) -> None:
        self._timer = None
        now_ns = time.time_ns()
        for owner in list(self._hub.spares):
            for region in owner.take_all(now_ns):
                self._take_back(owner, region, lambda: None)
        if self._hub.spares:
            self._watch()

    def _take_back(self, owner: Spares, region: Region, count: Callable[[], None]) -> None:
        """Have a thread empty a spare, of which its client has still a descriptor, and free it then."""
        region.is_busy = True

        def done(outcome: Outcome) -> None:
            region.is_busy = False
            if outcome[1] is None:
                self._hub.registry.abort(region)
            else:
                owner.keep(region)
            count()

        self._workers.start((region.owner.uid, "spares"), lambda: emptied(region), done)
