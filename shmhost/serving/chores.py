"""Long work of the loop's own, a slice in each turn, so that no request waits for all of it."""

from __future__ import annotations

import functools
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from time import perf_counter_ns

LOG = logging.getLogger("shmhost")

SLICE_NS = 20_000  # about as long as a few requests take

Later = Callable[[Callable[[], None]], None]


class Chores:
    """Works that are done one after the other, each a generator that stops wherever others may go first."""

    def __init__(self) -> None:
        self._queue: deque[Iterator[None]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, work: Iterator[None], later: Later, *, at_once: bool = True) -> None:
        """Do a work: the first slice at once, if it may be, unless an earlier one is not done yet.

        `later` calls a function when others have had their turn.
        """
        self._queue.append(work)
        if len(self._queue) > 1:
            return
        if at_once:
            self._do(later)
        else:
            later(functools.partial(self._do, later))

    def finish(self) -> None:
        """Do all of them now."""
        self._do(_do_nothing, math.inf)

    def _do(self, later: Later, slice_ns: float | None = None) -> None:
        ends_ns = perf_counter_ns() + (SLICE_NS if slice_ns is None else slice_ns)
        while self._queue:
            try:
                for _ in self._queue[0]:
                    if perf_counter_ns() > ends_ns:
                        later(functools.partial(self._do, later))
                        return
            except Exception:  # a bug; the other works are not part of it
                LOG.exception("fault in long work")
            self._queue.popleft()


def _do_nothing(_call: Callable[[], None]) -> None:
    pass
