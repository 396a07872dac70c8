"""The one event loop that an async client belongs to. Knows no socket and no message.

Its locks, and the tasks that read for one another, are those of that loop: another loop would wait for
a wake-up that never comes.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from shmclient._connection.socket import detach_after_fork
from shmprotocol.errors import WrongEventLoop


class EventLoop:
    """The event loop of the first use: every other one is refused. A child of a fork starts anew."""

    def __init__(self) -> None:
        self._loop: object | None = None
        detach_after_fork(self, EventLoop.__init__)

    def check(self) -> None:
        """WrongEventLoop unless the caller runs in the loop of the first call."""
        loop = _running()
        if self._loop is None:
            if loop is None:
                raise WrongEventLoop("no event loop runs here: use asyncio.run, trio.run or anyio.run")
            self._loop = loop  # kept: the identity of a collected loop could be that of a new one
        if loop is not self._loop:
            raise WrongEventLoop(
                "this AsyncClient belongs to another event loop, which runs elsewhere or is over: connect in "
                "each loop, or hand the call over (asyncio.run_coroutine_threadsafe, anyio.from_thread.run)"
            )


def _running() -> object | None:
    """Return the running event loop of this thread, None without one: 0.1 us (asyncio), 0.4 (trio)."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        trio: Any = sys.modules.get("trio")
    try:
        token: object = trio.lowlevel.current_trio_token() if trio is not None else None
    except RuntimeError:
        return None
    return token
