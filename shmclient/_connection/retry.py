"""Connecting, and waiting for a host that is not there: how long, with which pauses. Sleeps nowhere.

Shared by the sync and the async client, which sleep each in their own way.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

from shmprotocol.errors import HostTimeout, InvalidArgument, ShmError, WaitTimeout, again

PAUSE_MIN_S = 0.01  # a host that is restarted listens again after some 200 ms
PAUSE_MAX_S = 1.0
CONNECT_MIN_S = 0.1  # for a host to greet, however little is left of a wait


class Attempts:
    """A client's attempts to connect, one after the other, under a lock of the client's own.

    Those who wait for the lock while an attempt goes on fail as it does: against a host that is stopped, each
    would otherwise wait for the whole time again.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.over = 0  # how many have ended; noted before one waits for the lock
        self._refused: ShmError | None = None  # how the last one failed, and in how many seconds
        self._refused_s = 0.0

    def limit(self, limit_s: float | None) -> float:
        """Return the seconds that an attempt may take: `limit_s`, as far as the timeout goes."""
        return self._timeout_s if limit_s is None else min(self._timeout_s, max(limit_s, CONNECT_MIN_S))

    @contextlib.contextmanager
    def next(self, limit_s: float | None, over: int) -> Iterator[float]:
        """Give the seconds that an attempt in the block may take: `limit_s`, as far as the timeout goes.

        `over` is what it was before the lock was waited for: what an attempt since then was told is raised.
        """
        connect_s = self.limit(limit_s)
        if self._refused is not None and self.over != over and connect_s <= self._refused_s:
            raise again(self._refused)
        self._refused = None  # an attempt that is cancelled leaves nothing to be told
        try:
            yield connect_s
        except ShmError as error:
            self._refused, self._refused_s = again(error), connect_s
            raise
        finally:
            self.over += 1


def others_connect(path: str, limit_s: float) -> HostTimeout:
    """Return the error of one who waited for the lock for so long."""
    return HostTimeout(f"the host at {path} gave no answer to another thread or task in {limit_s:.3g} s")


def is_final(socket_path: str) -> bool:
    """Whether no host will be back: the main thread has ended, and with it the private host of the program.

    Its folder is gone then. Another thread that is not a daemon would wait on, and the interpreter for it.
    """
    return not threading.main_thread().is_alive() and not os.path.isdir(os.path.dirname(socket_path))


class Retry:
    """The time that a `wait` has, over any number of connections. `wait_s` None: no wait, so no retry."""

    def __init__(self, wait_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        if wait_s is not None and not wait_s >= 0:
            raise InvalidArgument(
                f"wait is a number of seconds from 0 on, or None for no wait, not {wait_s!r}"
            )
        self._wait_s = wait_s
        self._clock = clock
        self._end = clock() + wait_s if wait_s is not None else 0.0
        self._pause_s = PAUSE_MIN_S

    def remaining(self) -> float | None:
        """Return how many seconds are left, at least 0; None when there is no wait."""
        return None if self._wait_s is None else max(self._end - self._clock(), 0.0)

    def renew(self) -> None:
        """Give the whole time again: what is waited for was there until now."""
        self._end = self._clock() + (self._wait_s or 0)
        self._pause_s = PAUSE_MIN_S

    def connected(self) -> None:
        """Note that there is a host: the next pause is a short one again."""
        self._pause_s = PAUSE_MIN_S

    def pause(self, error: ShmError) -> float:
        """Return how many seconds to sleep before the next attempt, after one that failed by `error`.

        The pauses double up to a second, and are cut by chance so that many clients do not come at once.
        Without a wait the error itself is raised; WaitTimeout from it when the time is up.
        """
        left = self.remaining()
        if left is None:
            raise error
        if left == 0:
            raise WaitTimeout(f"no host answered within {self._wait_s} s: {error}") from error
        pause = self._pause_s * random.uniform(0.5, 1.0)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        return min(pause, left)
