"""The time that names of a killed host have to come back before anybody is told that they are not there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_S = 1.0  # clients that are awake are back within 0.3 s of the host's start


class Patience:
    """The clock of those who wait, from the start of the host. For the loop's thread alone."""

    def __init__(self) -> None:
        self._calls: set[Callable[[], None]] = set()
        self._timer: asyncio.TimerHandle | None
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._end)

    def wait(self, call: Callable[[], None]) -> bool:
        """Call a function, once, when the time is over; False: it is over already."""
        if self._timer is None:
            return False
        self._calls.add(call)
        return True

    def close(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self._timer = None
        calls, self._calls = self._calls, set()
        for call in calls:
            call()
