"""Those who work for a host while it serves: threads, and who has whose turn. There before the first link."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import anyio

from shmhost.core.hub import Hub
from shmhost.core.ledgers import Ledger
from shmhost.core.readings import forgetting
from shmhost.core.work import Steps, Work, run_now
from shmhost.serving.arena_link import ArenaLink
from shmhost.serving.deaths import Deaths
from shmhost.serving.freeing import Freer
from shmhost.serving.guests import Guests
from shmhost.serving.lingering import Lingering
from shmhost.serving.link import Link
from shmhost.serving.recall import Recall
from shmhost.serving.sealing import Sealers
from shmhost.serving.turns import Turns
from shmhost.serving.workers import Outcome, Workers

LOG = logging.getLogger("shmhost")

END_S = 2.0  # for threads to finish at the end: a client can block its own for as long as it likes


class Crew:
    """All of them; the hub knows them until they are closed. Made and used in the loop's thread alone."""

    workers: Workers

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.workers = workers = Workers()
        self.freer: Freer = Freer(workers)
        self._sealers = hub.sealers = Sealers(workers.are_free)
        self.deaths: Deaths = Deaths()
        self.lingering: Lingering = Lingering(self.deaths, self._forget_ledger)
        self._recall = Recall(hub, workers)
        self.turns: Turns = Turns()
        self.guests: Guests = Guests(self.turns, hub.registry.accounts)
        hub.run_news, hub.run_ends = self.turns.tell, self.turns.end

    def start(self, link: Link | ArenaLink, steps: Steps, work: Work) -> Callable[[], bool] | Outcome:
        """Have a thread do what a request waits for, and the link go on with its outcome then.

        Returns what takes it back, which says whether it was in time; or the outcome, if it is here already.
        """
        # Retries have their own lane: a client that loops over a call that waits delays only such clients.
        lane, call = (link.peer.uid, work.is_retry), work.call
        if work.sealing is not None:
            said = self._sealers.seal(*lane, work.sealing)
            if isinstance(said, tuple):
                return said, None
            call = said or call
        job = self.workers.start(lane, call, functools.partial(link.resume, steps))

        def take_back() -> bool:
            if not self.workers.cancel(job):
                return False
            steps.close()
            return True

        return take_back

    async def close(self) -> None:
        """End them. Links are closed before."""
        self.guests.close()
        self.turns.finish()
        self.lingering.close()
        self.deaths.close()  # of links that are closed
        self._recall.close()
        # Steps must see the end of their work: otherwise its object would have no owner.
        with anyio.move_on_after(END_S, shield=True) as scope:
            await self.workers.drain()
        if scope.cancelled_caught:
            LOG.warning("abandoned system calls that have not returned")
        self.workers.close()
        self.freer.close()
        self._hub.sealers = None
        self._hub.run_news = self._hub.run_ends = run_now

    def _forget_ledger(self, ledger: Ledger) -> None:
        self._hub.run_ends(ledger.peer.uid, forgetting(self._hub, ledger))
