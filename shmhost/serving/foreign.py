"""Closes descriptors that came from clients, in threads of each user's own. Knows no session.

Of whatever kind they are: the last close of a socket with SO_LINGER, or of a file whose server does not
answer, takes as long as its sender likes. So no two users share a thread, and one whose descriptors are not
closed may send no more.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, defaultdict, deque

LOG = logging.getLogger("shmhost")

WIDTH = 2  # threads of a user, so that one blocked close leaves room for one that is not
MAX_PENDING = 64  # descriptors of a user; each connection can add those of one message to that


class Foreign:
    """Owns the descriptors that it is given until they are closed. The threads are daemons, as a Closer's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for a few instructions, by the loop as well
        self._waiting: defaultdict[int, deque[int]] = defaultdict(deque)  # by uid
        self._threads: Counter[int] = Counter()
        self._pending: Counter[int] = Counter()

    def is_full(self, uid: int) -> bool:
        """Whether so many descriptors of a user are not closed yet that it may send no more."""
        return self._pending[uid] >= MAX_PENDING

    def close(self, numbers: list[int], uid: int) -> None:
        """Close descriptors that came from a user."""
        if not numbers:
            return
        with self._lock:
            self._pending[uid] += len(numbers)
            self._waiting[uid] += numbers
            if self._threads[uid] < WIDTH:
                self._start(uid)

    def _start(self, uid: int) -> None:
        self._threads[uid] += 1
        try:
            threading.Thread(target=self._run, args=(uid,), name="shmhost foreign", daemon=True).start()
        except RuntimeError as error:  # no thread available: the next close tries again
            self._threads[uid] -= 1
            LOG.warning("descriptors of uid %d stay open for now: %s", uid, error, extra={"uid": uid})

    def _run(self, uid: int) -> None:
        while (number := self._next(uid)) is not None:
            os.close(number)
            with self._lock:
                self._pending[uid] -= 1

    def _next(self, uid: int) -> int | None:
        """Return the next one; None when this thread shall end, which it then must."""
        with self._lock:  # so that none is left to a thread that has decided to end
            if self._waiting[uid]:
                return self._waiting[uid].popleft()
            self._threads[uid] -= 1
            if not self._threads[uid]:
                del self._threads[uid], self._waiting[uid], self._pending[uid]
            return None
