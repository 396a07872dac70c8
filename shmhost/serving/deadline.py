"""A time limit for a client that counts only the time in which this process ran. Knows no socket.

SIGSTOP, a frozen container or a suspended machine stops the host and not the clock: one long timer would
then fire before the loop sees what its clients sent meanwhile. So a deadline is a number of short ticks,
each armed after the one before, and a tick that comes late does not count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TICK_S = 1.0  # the error of a deadline; also how late a tick has to be to tell a stop from a busy loop


class Deadline:
    """Calls `expired` once, after `ticks` seconds of running time from `start`, unless `stop` comes first."""

    __slots__ = ("_due_s", "_expired", "_handle", "_left", "_loop", "_ticks")

    def __init__(self, loop: asyncio.AbstractEventLoop, ticks: int, expired: Callable[[], None]) -> None:
        self._loop = loop
        self._ticks = ticks
        self._expired = expired
        self._left = 0
        self._due_s = 0.0
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started, and neither stopped nor expired since."""
        return self._handle is not None

    def start(self) -> None:
        """Start counting, or restart if it is counting already."""
        self.stop()
        self._left = self._ticks
        self._arm()

    def stop(self) -> None:
        """Do not call `expired`. May be called at any time."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def end(self) -> None:
        """Stop for good, and forget whom to call."""
        self.stop()
        self._expired = _do_nothing

    def _arm(self) -> None:
        self._due_s = self._loop.time() + TICK_S
        self._handle = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        if self._loop.time() - self._due_s < TICK_S:
            self._left -= 1
        if self._left:
            self._arm()
        else:
            self._handle = None
            self._expired()


def _do_nothing() -> None:
    pass
