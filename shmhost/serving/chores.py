"""Long work of the loop's own, a slice in each turn, so that no request waits for all of it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Iterator
from time import perf_counter_ns

LOG = logging.getLogger("shmhost")

SLICE_NS = 50_000  # about as long as a few requests take


class Chores:
    """Works that are done one after the other, each a generator that stops wherever others may go first."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Iterator[None]] = deque()

    def add(self, work: Iterator[None]) -> None:
        """Do a work: at once, as far as a slice goes, unless an earlier one is not done yet."""
        self._queue.append(work)
        if len(self._queue) == 1:
            self._do()

    def finish(self) -> None:
        """Do all of them now."""
        self._do(math.inf)

    def _do(self, slice_ns: float = SLICE_NS) -> None:
        ends_ns = perf_counter_ns() + slice_ns
        while self._queue:
            try:
                for _ in self._queue[0]:
                    if perf_counter_ns() > ends_ns:
                        self._loop.call_soon(self._do)
                        return
            except Exception:  # a bug; the other works are not part of it
                LOG.exception("fault in long work")
            self._queue.popleft()
