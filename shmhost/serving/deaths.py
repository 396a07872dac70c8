"""Tells when processes end, by their pidfds: the loop watches one descriptor for all. Knows no socket.

A watch by the loop costs eight system calls with uvloop, from its begin to its end; one here costs two.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable


class Deaths:
    """Owns the pidfds that it watches. For the loop's thread alone, and for as long as its loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()  # close-on-exec; epoll(7) can be watched itself
        self._is_watched = False  # from the first pidfd on
        self._calls: dict[int, Callable[[], None]] = {}

    def watch(self, pidfd: int, call: Callable[[], None]) -> None:
        """Call a function when the process of a pidfd has ended; it must `forget` the pidfd then.

        OSError: the kernel cannot watch one more. The pidfd is closed then.
        """
        try:
            self._epoll.register(pidfd, select.EPOLLIN)
            if not self._is_watched:
                self._loop.add_reader(self._epoll.fileno(), self._look)
                self._is_watched = True
        except BaseException:
            os.close(pidfd)
            raise
        self._calls[pidfd] = call

    def pass_on(self, pidfd: int, call: Callable[[], None]) -> None:
        """Call another function from now on, when the process of a pidfd has ended."""
        self._calls[pidfd] = call

    def forget(self, pidfd: int) -> None:
        """Watch it no more, and close it."""
        del self._calls[pidfd]
        # Closing is not enough: a forked child of this process may have a copy, which would be watched on.
        self._epoll.unregister(pidfd)
        os.close(pidfd)

    def close(self) -> None:
        """Forget all, and watch nothing more."""
        for pidfd in list(self._calls):
            self.forget(pidfd)
        if self._is_watched:
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _look(self) -> None:
        for pidfd, _events in self._epoll.poll(0, 1):  # the end of a client takes its time
            call = self._calls.get(pidfd)  # None: one of the others had it forgotten
            if call is not None:
                call()
