"""Ledgers of clients that the host has dropped, whose processes live on and use values of arenas still.

A value lives as long as any view of it: so the owner of the arena must not hear that such a client is gone
before its process is, or holds nothing any more. The ledger is looked at once a second for that, because
nobody tells. A client that closes its connection by itself says so that it holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from shmhost.core.ledgers import Ledger
from shmhost.serving.deaths import Deaths

LOOK_AGAIN_S = 1.0


class Lingering:
    """Owns the pidfds of the processes; passes each ledger to `forget` in the end. For the loop's thread."""

    def __init__(self, deaths: Deaths, forget: Callable[[Ledger], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._deaths = deaths
        self._forget = forget
        self._ledgers: dict[Ledger, int] = {}  # with the pidfds
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, ledgers: Sequence[Ledger], pidfd: int | None) -> None:
        """Keep ledgers as long as they are used by the process of a pidfd, which the deaths watch already.

        None: the kernel has none. Then only a look can tell that one is not used.
        """
        for ledger in ledgers:
            self._ledgers[ledger] = -1
        if pidfd is not None:
            self._ledgers[ledgers[0]] = pidfd
            self._deaths.pass_on(pidfd, lambda: self._end_all(ledgers))
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_AGAIN_S, self._look)

    def keep_from_elsewhere(self, ledger: Ledger, pidfd: int) -> None:
        """Keep a ledger of a client that another host has dropped; the pidfd is watched from now on."""
        self._deaths.watch(pidfd, _do_nothing)
        self.keep([ledger], pidfd)

    def ledgers(self) -> dict[Ledger, int]:
        """Return the ledgers, with the pidfds, which stay here."""
        return dict(self._ledgers)

    def close(self) -> None:
        """Stop looking. The deaths close the pidfds."""
        if self._timer is not None:
            self._timer.cancel()
        self._ledgers.clear()

    def _look(self) -> None:
        for ledger in [each for each in self._ledgers if not each.is_in_use()]:
            self._end(ledger)
        self._timer = self._loop.call_later(LOOK_AGAIN_S, self._look) if self._ledgers else None

    def _end_all(self, ledgers: Sequence[Ledger]) -> None:
        for ledger in ledgers:
            if ledger in self._ledgers:
                self._end(ledger)

    def _end(self, ledger: Ledger) -> None:
        pidfd = self._ledgers.pop(ledger)
        if pidfd >= 0:
            self._deaths.forget(pidfd)
        self._forget(ledger)


def _do_nothing() -> None:
    pass
