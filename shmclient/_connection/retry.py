"""Connecting and waiting for a missing host: time limits and pauses. Never sleeps.

Shared by the sync and the async client, which sleep each in their own way.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from shmprotocol.errors import HostTimeout, InvalidArgument, ShmError, WaitTimeout, again
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.query import jittered

PAUSE_MIN_S = 0.01  # a restarted host listens again after about 200 ms
PAUSE_MAX_S = 1.0
CONNECT_MIN_S = 0.1  # for the greeting, even if less is left of a wait


class Attempts:
    """A client's attempts to connect, one after the other, under a lock of the client.

    Callers that wait for the lock during an attempt fail with its error: against a stopped host, each
    would otherwise wait for the whole timeout again.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.over = 0  # the count of finished attempts; callers read it before they wait for the lock
        self._refused: ShmError | None = None  # the error of the last attempt, and its time limit
        self._refused_s = 0.0

    def limit(self, limit_s: float | None) -> float:
        """Return the seconds that an attempt may take: `limit_s`, but at most the timeout."""
        return self._timeout_s if limit_s is None else min(self._timeout_s, max(limit_s, CONNECT_MIN_S))

    @contextlib.contextmanager
    def next(self, limit_s: float | None, over: int) -> Iterator[float]:
        """Give the seconds that an attempt in the block may take: `limit_s`, but at most the timeout.

        `over`: the count before waiting for the lock. If an attempt failed since, raise its error.
        """
        connect_s = self.limit(limit_s)
        if self._refused is not None and self.over != over and connect_s <= self._refused_s:
            raise again(self._refused)
        self._refused = None  # a cancelled attempt has no error to share
        try:
            yield connect_s
        except ShmError as error:
            self._refused, self._refused_s = again(error), connect_s
            raise
        finally:
            self.over += 1


def others_connect(path: str, limit_s: float) -> HostTimeout:
    """Return the error of a caller that waited for the lock for this long."""
    return HostTimeout(f"the host at {path} gave no answer to another thread or task in {limit_s:.3g} s")


def is_final(socket_path: str) -> bool:
    """Whether the host cannot come back: the main thread has ended, and with it the program's private host.

    Its folder is gone then. Another non-daemon thread would wait on, and block the end of the interpreter.
    """
    return not threading.main_thread().is_alive() and not os.path.isdir(os.path.dirname(socket_path))


class Wait(NamedTuple):
    """A wait in seconds: how long it goes on from now, and how long it was asked for."""

    left_s: float
    asked_s: float


class Retry:
    """The time limit of a `wait`, across any number of connections. `wait_s` None: no wait, so no retry."""

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
        """Return the seconds that are left, at least 0; None if there is no wait."""
        return None if self._wait_s is None else max(self._end - self._clock(), 0.0)

    def wait(self) -> Wait | None:
        """Return what is left, with the time that was asked for, which is what errors say."""
        left_s = self.remaining()
        return None if self._wait_s is None or left_s is None else Wait(left_s, self._wait_s)

    def renew(self) -> None:
        """Restart the full time: the awaited name or host was present until now."""
        self._end = self._clock() + (self._wait_s or 0)
        self._pause_s = PAUSE_MIN_S

    def connected(self) -> None:
        """Note that there is a host: the next pause is short again."""
        self._pause_s = PAUSE_MIN_S

    def pause(self, error: ShmError) -> float:
        """Return the seconds to sleep before the next attempt, after one that failed with `error`.

        The pauses double up to a second, with random jitter, so that clients do not reconnect in step.
        Without a wait, the error itself is raised; when the time is up, WaitTimeout is raised from it.
        """
        left = self.remaining()
        if left is None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame: a cycle, which would keep the callers' frames
        if left == 0:
            raise WaitTimeout(f"no host answered within {self._wait_s} s: {error}") from error
        pause = jittered(self._pause_s)
        self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)
        return min(pause, left)
