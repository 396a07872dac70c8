"""The end of a host that nobody needs: when nobody has been connected for some time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized


class Idle:
    """Calls `stop` when there have been no connections for some seconds; 0 seconds: never."""

    def __init__(self, seconds: float, connections: Sized, stop: Callable[[], None]) -> None:
        self._seconds = seconds
        self._connections = connections
        self._stop = stop
        self._timer: asyncio.TimerHandle | None = None

    def note(self) -> None:
        """Take note that the host serves now, or that there is a connection more or less."""
        if not self._seconds:
            return
        self.close()
        if not self._connections:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._stop)

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
