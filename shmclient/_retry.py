"""Waiting for a host that is not there: how long, and with which pauses. Pure but for the clock it is given.

Shared by the sync and the async client, which sleep each in their own way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from shmprotocol.errors import InvalidArgument, ShmError, WaitTimeout

PAUSE_MIN_S = 0.01  # a host that is restarted listens again after some 200 ms
PAUSE_MAX_S = 1.0
CONNECT_MIN_S = 0.1  # for a host to greet, however little is left of a wait


def no_wait() -> None:
    """Return what is left of a wait where there is none."""


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
