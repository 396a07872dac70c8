"""A lock whose holder also handles the items of callers that could not wait. Knows no memory or socket.

Views die wherever the interpreter lets them: on any thread, inside the garbage collector, in the middle
of a locked section of the very thread that holds the lock. So a destructor must never wait. It puts an
item in a queue and *tries* the lock; if that is taken, its holder handles the item before or right after
it leaves. A thread that fails to take the lock has queued before trying, and the holder looks at the
queue after releasing, so that no item is left behind.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Gate(Generic[Item]):
    """A context manager for exclusive sections; `submit` hands an item to whoever is inside, or is next.

    `handle` runs with the gate held, one item at a time, and must neither wait nor raise.
    """

    # Kept here: when the interpreter ends, views die after the modules' globals.
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self, handle: Callable[[Item], None]) -> None:
        self._handle = handle
        self._items: deque[Item] = deque()
        self._lock = threading.RLock()
        self._depth = 0  # of the holder: a destructor that runs inside of a section may enter another

    def submit(self, item: Item) -> None:
        """Have an item handled, now if the gate is free. Never waits; safe in a destructor.

        At the end of the interpreter it does nothing: the kernel gives back what the process has.
        """
        if self._is_finalizing():
            return
        self._items.append(item)
        self._try_drain()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1
        if self._items and self._depth == 1:
            self._drain()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        self._lock.release()
        if self._items:
            self._try_drain()

    def _try_drain(self) -> None:
        while self._items and self._lock.acquire(blocking=False):
            try:
                if self._depth:  # this very thread is inside, and looks at the queue when it leaves
                    return
                self._depth = 1
                try:
                    self._drain()
                finally:
                    self._depth = 0
            finally:
                self._lock.release()

    def _drain(self) -> None:
        while self._items:
            self._handle(self._items.popleft())
