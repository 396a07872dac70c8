"""A lock that `with` takes and releases as a whole, wherever Ctrl-C comes. Knows nothing of what it guards.

Up to Python 3.13 a `with` statement calls `__enter__` of a lock in C with no chance to be interrupted. From
3.14 on it is a call like any other: a signal's handler can run after the lock was acquired and before the
block begins, so that nothing would release it. `__exit__` stays in C: interrupted before, the block raises,
and interrupted after, it is released.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

_RLock: Any = type(threading.RLock())


class _InterruptibleLock(_RLock):  # type: ignore[misc]
    def __enter__(self) -> bool:
        depth = self._recursion_count()
        try:
            self.acquire()
            return True
        except BaseException:
            if self._recursion_count() > depth:
                self.release()
            raise


def new_lock() -> Any:
    """Return a reentrant lock for `with`, as `threading.RLock` does."""
    return threading.RLock() if sys.version_info < (3, 14) else _InterruptibleLock()
