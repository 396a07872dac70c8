"""Ledgers of clients that the host has dropped, whose processes live on and use values of arenas still.

A value lives as long as any view of it: so the owner of the arena must not hear that such a client is gone
before its process is, or holds nothing any more. The ledger is looked at once a second for that, because
nobody tells. A client that closes its connection by itself says so that it holds nothing.

A ledger that was handed back, and that no connection of the client goes on with, stays as long as the
process: whoever reads without a host does not know that the connection has ended by which it was handed back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from shmhost.core.ledgers import Ledger
from shmhost.core.processes import Process
from shmhost.machine.processes import is_gone, process_of
from shmhost.serving.deaths import Deaths

LOOK_AGAIN_S = 1.0


class Lingering:
    """Owns the pidfds of the processes; passes each ledger to `forget` in the end. For the loop's thread."""

    def __init__(self, deaths: Deaths, forget: Callable[[Ledger], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._deaths = deaths
        self._forget = forget
        self._ledgers: dict[Ledger, int] = {}  # with the pidfds
        self._processes: dict[Ledger, Process] = {}  # of those that are needed, and have none
        self._timer: asyncio.TimerHandle | None = None

    def keep(self, ledgers: Sequence[Ledger], pidfd: int | None) -> None:
        """Keep ledgers as long as they are used by the process of a pidfd, which the deaths watch already.

        None: the kernel has none. Then only looks can tell that the process has ended, or uses one no more.
        """
        for ledger in ledgers:
            if ledger in self._ledgers:
                self._let_go(ledger)
            self._ledgers[ledger] = -1 if pidfd is None else pidfd
            if pidfd is None and ledger.is_needed():
                self._processes[ledger] = process_of(ledger.peer.pid)
        if pidfd is not None:
            self._deaths.pass_on(pidfd, lambda: self._end_all(pidfd))
        if self._timer is None:
            self._timer = self._loop.call_later(LOOK_AGAIN_S, self._look)

    def keep_from_elsewhere(self, ledger: Ledger, pidfd: int | None) -> None:
        """Keep a ledger of a client that another host has dropped; a pidfd is watched from now on."""
        if pidfd is not None:
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
        for ledger in list(self._ledgers):
            if ledger.user is not None:  # handed back once more
                self._let_go(ledger)
            elif not (self._is_needed(ledger) or ledger.is_in_use()):
                self._end(ledger)
        self._timer = self._loop.call_later(LOOK_AGAIN_S, self._look) if self._ledgers else None

    def _is_needed(self, ledger: Ledger) -> bool:
        process = self._processes.get(ledger)
        return ledger.is_needed() and (process is None or (process.started > 0 and not is_gone(process)))

    def _end_all(self, pidfd: int) -> None:
        for ledger in [each for each, process in self._ledgers.items() if process == pidfd]:
            if ledger.user is None:
                self._end(ledger)
            else:
                self._let_go(ledger)

    def _end(self, ledger: Ledger) -> None:
        self._let_go(ledger)
        self._forget(ledger)

    def _let_go(self, ledger: Ledger) -> None:
        pidfd = self._ledgers.pop(ledger)
        self._processes.pop(ledger, None)
        if pidfd >= 0 and pidfd not in self._ledgers.values():
            self._deaths.forget(pidfd)


def _do_nothing() -> None:
    pass
