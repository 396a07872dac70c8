"""A lock whose holder also handles the items of callers that could not wait. Knows no memory or socket.

Views die wherever the interpreter lets them: on any thread, inside the garbage collector, in the middle
of a locked section of the very thread that holds the lock. So a destructor must never wait. It puts an
item in a queue and *tries* the lock; if that is taken, its holder handles the item right after it leaves.
A thread that fails to take the lock has queued before trying, and the holder looks at the queue after
releasing, so that no item is left behind.

A section is `with gate.draining, gate.lock:`, in this order. Ctrl-C raises between any two calls, and a lock
that a function in Python takes or releases can so be left locked for ever. A `with` statement takes and
releases this one as a whole. An interrupted `draining` leaves items to the next section.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shmclient._process.lock import new_lock

Item = TypeVar("Item")


class Gate(Generic[Item]):
    """`with gate.draining, gate.lock:` is an exclusive section, in which the same thread may enter another.

    `submit` hands an item to the thread that is inside, or to the next one. `handle` runs with the lock held,
    one item at a time, and must neither wait nor raise. After Ctrl-C it is called with the same item again.
    """

    # Kept here: when the interpreter ends, views die after the modules' globals.
    _is_finalizing = staticmethod(sys.is_finalizing)

    def __init__(self, handle: Callable[[Item], None]) -> None:
        self._handle = handle
        self.items: deque[Item] = deque()
        self.lock = new_lock()
        self.draining = _Draining(self.items, self.drain)
        self.is_inside: Callable[[], bool] = self.lock._is_owned  # as Condition

    def submit(self, item: Item) -> None:
        """Have an item handled, now if the gate is free. Never waits; safe in a destructor.

        At the end of the interpreter it does nothing: the kernel gives back what the process has.
        """
        if self._is_finalizing():
            return
        self.items.append(item)
        self.drain()

    def released(self) -> None:
        """Have what is in `items` handled, as `submit` does after it has put an item there. For C."""
        if not self._is_finalizing():
            self.drain()

    def drain(self) -> None:
        """Handle what is queued, unless somebody is inside, who does that after it leaves. Never waits."""
        while self.items:
            if self.is_inside():  # this very thread: a destructor runs anywhere
                return
            try:
                if not self.lock.acquire(blocking=False):
                    return
                self._handle_all()
            finally:
                try:  # noqa: SIM105 - any call before the release could be followed by Ctrl-C
                    self.lock.release()
                except RuntimeError:  # not acquired
                    pass

    def settle(self) -> None:
        """Return when what was submitted before is handled: another thread may have been at it."""
        with self.draining, self.lock:
            self._handle_all()

    def leave(self) -> None:
        """Release the lock after a plain `acquire` of it."""
        self.lock.release()
        self.drain()

    def _handle_all(self) -> None:
        while self.items:
            self._handle(self.items[0])
            self.items.popleft()


class _Draining:
    """The first part of a section, and the last to be left."""

    def __init__(self, items: deque[Any], drain: Callable[[], None]) -> None:
        self._items = items
        self._drain = drain

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self._items:
            self._drain()
