"""A thread that gives spares their pages ahead of need, for a client that asked for a reserve.

The kernel takes most of a put for its fresh pages: † 236 us a MiB, of 422 in all (2026-11). Allocated ahead,
on another CPU, they are not the put's. Knows no message; it has a descriptor of its own for each spare.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable

from shmclient._regions.creation import Creation
from shmprotocol.kernel.constants import MIB
from shmprotocol.wire import descriptors

PIECE = 4 * MIB  # bytes at a time: so long, 1 ms, a put that needs the spare now has to wait

NICE = 10  # setpriority(2), which Linux has for each thread

Item = tuple[descriptors.Owned, Callable[[], Creation | None], int]


class Filler:
    """The thread and its queue. It starts with the first spare, and ends with this object.

    It does not survive a fork, nor does the connection that the spares belong to.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._is_started = False

    def add(self, spare: Creation, capacity: int) -> None:
        """Have a spare filled, which stays the caller's; without a thread or a descriptor it stays empty."""
        own = descriptors.Owned()
        with contextlib.suppress(OSError):
            own.extend(map(os.dup, (spare.fileno(),)))
            self._queue.put((own, weakref.ref(spare), capacity))
            self._start()

    def close(self) -> None:
        """Fill no more. Never waits; may be called again."""
        self._queue.put(None)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_queue") and not is_finalizing():
            self.close()

    def _start(self) -> None:
        if not self._is_started:
            self._is_started = True
            thread = threading.Thread(
                target=_fill_all, args=(self._queue,), name="shmclient filler", daemon=True
            )
            with contextlib.suppress(RuntimeError):  # the limit of threads is reached
                thread.start()


def _fill_all(items: queue.SimpleQueue[Item | None]) -> None:
    # Behind whatever else wants the CPU, such as the host: a put that waits costs more than an empty spare.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    while (item := items.get()) is not None:
        with contextlib.suppress(OSError):  # it was taken back or sealed meanwhile, or there is no memory
            _fill(*item)
        del item  # and with it the descriptor


def _fill(own: descriptors.Owned, spare: Callable[[], Creation | None], capacity: int) -> None:
    for start in range(0, capacity, PIECE):
        creation = spare()
        if creation is None or not creation.is_open:
            break
        del creation
        os.posix_fallocate(own[0], start, min(PIECE, capacity - start))
    own.close()
