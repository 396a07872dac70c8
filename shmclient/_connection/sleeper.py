"""Threads that sleep on the board until a line of it changes, the host goes, or somebody wakes them."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable

from shmprotocol.kernel.board import Waker, wait_for_change
from shmprotocol.native.builtins import ArenaReader, HeldValue

_NEVER_S = 1e6  # longer waits are taken for endless
# The end of a host wakes one sleeper, and that one the others: this is for when it is killed in between.
_LOOK_AGAIN_S = 5.0
_GOES_ON = (0, errno.ETIMEDOUT, errno.EINTR)


class Sleeper:
    """The sleeping threads of one connection.

    Some kernels and filters do not let anybody sleep on several words (before Linux 5.16; seccomp): then
    `sleep` says so, and the caller waits for messages instead.
    """

    def __init__(self) -> None:
        self._waker = Waker()
        self._is_refused = False

    def sleep(
        self, line: int, owner: int, changes: int, wait_s: float, is_over: Callable[[], bool]
    ) -> bool | None:
        """Return True when a line has changed or the host is gone, or when `is_over`.

        `changes` is the number that the line had before it was looked at. None: the time is over. False: it
        cannot be done here. A signal's handler runs in between, and what it raises ends this.
        """
        end = time.monotonic() + wait_s if wait_s < _NEVER_S else math.inf
        while not self._is_refused:
            wakes = self._waker.count()  # before the look: whoever ends this wakes afterwards
            if is_over():
                return True
            left_s = end - time.monotonic()
            if left_s <= 0:
                return None
            error = wait_for_change(line, changes, owner, self._waker, wakes, min(left_s, _LOOK_AGAIN_S))
            if not error and self._waker.count() == wakes:
                return True
            self._is_refused = error not in (0, errno.ETIMEDOUT, errno.EINTR)
        return False

    def rest(
        self, sleep: Callable[[Waker, int, float], bool], wait_s: float, is_over: Callable[[], bool]
    ) -> bool | None:
        """Sleep as long as `sleep` returns False, and not `is_over`; None: the time is over.

        `sleep` takes the waker, the count of its wakes from before the looks, and the seconds that are left.
        """
        end = time.monotonic() + wait_s if wait_s < _NEVER_S else math.inf
        while True:
            wakes = self._waker.count()
            if is_over():
                return True
            left_s = end - time.monotonic()
            if left_s <= 0:
                return None
            if sleep(self._waker, wakes, left_s):
                return True

    def await_value(
        self, reader: ArenaReader, name: str, after: int, wait_s: float, is_over: Callable[[], bool]
    ) -> HeldValue | None:
        """Return the value of a name in an arena that is newer than a generation, once it is there.

        None: the time is over, or it `is_over`, or the host is to be asked, or nobody can sleep so here.
        """
        end = time.monotonic() + wait_s if wait_s < _NEVER_S else math.inf
        left_s, waker = wait_s, self._waker
        while left_s > 0:
            wakes = waker.count()  # before the look: whoever ends this wakes afterwards
            if is_over():
                return None
            wait_ns = int(min(left_s, _LOOK_AGAIN_S) * 1e9)
            answer = reader._await(name, after, waker.address, wakes, wait_ns)
            if not isinstance(answer, int):
                return answer
            if answer not in _GOES_ON:
                return None
            left_s = end - time.monotonic()
        return None

    def wake(self) -> None:
        """Have all of them look again whether it is over."""
        self._waker.wake()
