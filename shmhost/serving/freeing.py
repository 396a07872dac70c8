"""Closes memory objects, which frees their pages: in the loop while that is quick, else in threads.

† Freeing takes 130 us a MiB. The thread that does it for memfds needs no GIL and reports nothing: handing one
over takes 3 us, against 40 for a hop to a worker and back (2026-11). Workers close what it has no room for.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence

from shmhost.core.objects import Freeable, Memfd, PosixShm
from shmhost.serving.workers import NoThread, Outcome, Workers, attempt
from shmprotocol.native import builtins

LOG = logging.getLogger("shmhost")

MAX_AT_ONCE = 64 * 1024  # bytes in one turn of the loop: freeing them takes less than the hop


class Freer:
    """Owns the objects that it is given until they are closed. Used in the loop's thread alone."""

    def __init__(self, workers: Workers) -> None:
        self._loop = asyncio.get_running_loop()
        self._workers = workers
        self._closer = builtins.Closer()
        self._pending: list[Freeable] = []
        self._room = MAX_AT_ONCE  # what is left of it in this turn
        self._is_counting = False  # the next turn resets that

    def free(self, memory_object: Freeable) -> None:
        """Close an object: now, or after this turn of the loop."""
        if isinstance(memory_object, PosixShm):
            # Any user can make a call in the folder of PosixShm wait: so it goes alone.
            self._start([memory_object])
            return
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._end_turn)
        if memory_object.capacity <= self._room:
            self._room -= memory_object.capacity
            close_all([memory_object])
        elif not isinstance(memory_object, Memfd) or not memory_object.close_later(self._closer):
            self._pending.append(memory_object)

    def close(self) -> None:
        """Close what waits for the end of the turn, or for the thread, and end that."""
        self._closer.end()
        pending, self._pending = self._pending, []
        close_all(pending)

    def _end_turn(self) -> None:
        self._is_counting = False
        self._room = MAX_AT_ONCE
        pending, self._pending = self._pending, []
        if pending:
            self._start(pending)

    def _start(self, objects: Sequence[Freeable]) -> None:
        lane = "files" if isinstance(objects[0], PosixShm) else "memory"
        self._workers.start(lane, lambda: close_all(objects), functools.partial(_closed, objects))


def close_all(objects: Sequence[Freeable]) -> None:
    """Close objects; an error is logged, and keeps no other object."""
    for memory_object in objects:
        error = attempt(memory_object.close)[1]
        if error is not None:
            LOG.warning("cannot remove an object: %s", error)


def _closed(objects: Sequence[Freeable], outcome: Outcome) -> None:
    if isinstance(outcome[1], NoThread):
        # A pause of the loop is better than memory that nobody is charged for.
        close_all(objects)
