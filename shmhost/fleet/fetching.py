"""The chunks of a transfer: asked for within the credits and limits, from all that have them. Waits.

A transfer that is interrupted goes on when one of its sources is back, with the chunks that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable

from shmhost.fleet import hashing
from shmhost.fleet.bandwidth import Bandwidth
from shmhost.fleet.bulk_client import CHUNK_S, BulkClient
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import Engine
from shmhost.fleet.events import BUSY, Refusal
from shmhost.fleet.messages import pack
from shmhost.fleet.pulls import Pull, check_going_on
from shmhost.fleet.threads import AnyTarget, Threads
from shmhost.fleet.transfers import BUSY_S, REFUSED_S, Credits, Step, Transfer
from shmprotocol.errors import HostGone, HostTimeout, RemoteProtocolError

LOG = logging.getLogger("shmhost")

WAIT_S = 300.0  # for a source to come back, before the memory of a transfer is given up
LEAVES_S = 0.5  # after which all are asked again for the hashes of the chunks, while these come


class Fetching:
    """The chunks that are on their way here, of all transfers.

    `sources` returns the addresses of hosts that have a payload, by its hash and the host that announced it.
    `wake` has all transfers look again.
    """

    def __init__(
        self,
        plan: FleetConfig,
        engine: Engine,
        threads: Threads,
        address: str,
        sources: Callable[[bytes, str], set[str]],
        wake: Callable[[], None],
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.bandwidth: Bandwidth = Bandwidth(plan.bandwidth, plan.peer_bandwidth)
        self._plan = plan
        self._engine = engine
        self._address = address
        self._sources = sources
        self._wake = wake
        self._credits = Credits(plan.chunks)
        self._bulk = BulkClient(plan, engine, threads, address, self.counts)

    async def fetch(self, pull: Pull, target: Callable[[int], AnyTarget]) -> list[bytes]:
        """Bring all of a payload; return the hashes of its chunks. `target`: where a chunk goes, by number.

        Cancelled, or without a source for long, it leaves nothing under way.
        """
        transfer = Transfer(pull.announcement.room, None, self._credits, seed=self._address)
        pull.transfer = transfer
        running: set[asyncio.Task[None]] = set()
        try:
            await self._fetch(pull, transfer, running, target)
        finally:
            transfer.is_ended = True
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._wake()  # others may have waited for the credits
        assert transfer.leaves is not None
        return transfer.leaves

    def leave(self, address: str) -> None:
        """A host has gone."""
        self._bulk.leave(address)
        self.bandwidth.forget(address)

    async def close(self) -> None:
        """End the connections; nothing is under way any more."""
        await self._bulk.close()

    async def _leaves(self, pull: Pull) -> list[bytes]:
        """Return the hashes of the chunks, from any source."""
        announcement, tried = pull.announcement, set[str]()
        end_s = time.monotonic() + WAIT_S
        question = pack("leaves", self._address, announcement.name, announcement.tree)
        while time.monotonic() < end_s:
            sources = self._sources(announcement.tree, pull.host)
            if tried and tried >= sources:
                raise RemoteProtocolError(f"all that have {announcement.name!r} send something else")
            for source in sources - tried:
                try:
                    data = await self._engine.ask(source, question, CHUNK_S)
                except (Refusal, HostGone, HostTimeout) as error:
                    if isinstance(error, Refusal):
                        pull.refusing.add(source)
                    continue
                leaves = hashing.split(announcement.room, announcement.tree, data)
                if leaves is not None:
                    return leaves
                self._blame(source, announcement.name)
                tried.add(source)
            check_going_on(pull, sources)
            await asyncio.sleep(LEAVES_S)
        raise HostTimeout(f"no host has sent the hashes of {announcement.name!r} in {WAIT_S:g} s")

    async def _fetch(
        self,
        pull: Pull,
        transfer: Transfer,
        running: set[asyncio.Task[None]],
        target: Callable[[int], AnyTarget],
    ) -> None:
        """Pull all chunks, and have them proven."""
        name, idle_s = pull.announcement.name, time.monotonic()
        while not transfer.is_whole:
            sources = self._sources(pull.announcement.tree, pull.host)
            transfer.refresh(sources, time.monotonic())
            check_going_on(pull, sources)
            pull.changed.clear()
            if await self._prove(pull, transfer, sources):
                continue
            while step := transfer.next():
                task = asyncio.get_running_loop().create_task(self._chunk(pull, transfer, step, target))
                running.add(task)
                task.add_done_callback(running.discard)
            if running:
                idle_s = time.monotonic()
            elif transfer.banned and not transfer.sources:
                raise RemoteProtocolError(f"all that have {name!r} send something else")
            elif time.monotonic() > idle_s + WAIT_S:
                missing = "its hash" if transfer.is_here else "it"
                raise HostTimeout(f"no host sends {missing} any more: {name!r}")
            await _wait(pull.changed, 0.25 if transfer.busy else 1.0)

    async def _prove(self, pull: Pull, transfer: Transfer, sources: set[str]) -> bool:
        """Compare what is here with what is announced, once it has its hash; True: look again.

        The hashes of the chunks are asked for if that is wrong, or if chunks can come from several hosts.
        """
        announcement = pull.announcement
        if transfer.leaves is not None or announcement.is_early:
            return False
        if transfer.is_here and transfer.prove(announcement.tree):
            return True
        is_one = hashing.chunk_count(announcement.room) == 1
        if is_one:
            wrong = transfer.drop([*transfer.unproven])
        elif transfer.is_here or len(sources) > 1:
            wrong = transfer.compare(await self._leaves(pull))
        else:
            return False
        for source in wrong:
            self._blame(source, announcement.name)
        return not is_one

    async def _chunk(
        self, pull: Pull, transfer: Transfer, step: Step, target: Callable[[int], AnyTarget]
    ) -> None:
        announcement = pull.announcement
        question = pack("chunk", self._address, announcement.name, announcement.tree, step.number)
        is_under_way = True
        size = hashing.part(announcement.room, step.number)[1]
        try:
            wait_s = self.bandwidth.take(step.source, size, time.monotonic(), math.inf)
            await asyncio.sleep(wait_s)  # the credit bounds how many wait
            where = target(step.number)
            size, digest = await self._bulk.bring(step.source, question, where, announcement.room)
            is_under_way = False
            if transfer.arrive(step, size, digest):
                self.counts["bytes"] += size
            else:
                self._blame(step.source, announcement.name)
        except (HostGone, HostTimeout, Refusal) as error:
            self.counts["repeated"] += 1
            is_refusal = isinstance(error, Refusal)
            is_busy = is_refusal and str(error).startswith(BUSY)
            if is_refusal and not is_busy:
                pull.refusing.add(step.source)
            rest_s = random.uniform(*BUSY_S) if is_busy else REFUSED_S if is_refusal else 0.0
            transfer.rest(step.source, time.monotonic() + rest_s)
            LOG.debug("fleet %s: chunk %d of %r: %s", self._plan.fleet, step.number, announcement.name, error)
            await asyncio.sleep(0.1)  # it may be busy
        except OSError as error:  # of the write: the next source would be no better
            pull.broken = error
        finally:
            if is_under_way:
                transfer.fail(step)
            pull.changed.set()

    def _blame(self, source: str, name: str) -> None:
        self.counts["corrupt"] += 1
        text = "fleet %s: %s has sent something else than %r, and is not asked for it again"
        LOG.error(text, self._plan.fleet, source, name)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    """Wait for an event, or for some time: links come back without one."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    event.clear()
