"""The copies of foreign regions on this host: which are wanted, and how they come here. Waits.

A region is pulled into an object of its own, which nobody sees before it is whole, has the right hash and is
sealed. Each chunk has its hash, so it may come from any host: `fetching` has these.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial

from shmhost.core.hub import Hub
from shmhost.core.meter import Latency
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.fleet import placing
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.bandwidth import Bandwidth
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import Engine
from shmhost.fleet.fetching import Fetching
from shmhost.fleet.hashing import chunk_count
from shmhost.fleet.pulls import LAGS, Pull, Replica, Superseded, is_of
from shmhost.fleet.threads import QUICK, Held, Target, Threads
from shmprotocol.abi.header import Header
from shmprotocol.errors import QuotaExceeded, RegionBusy, ShmError
from shmprotocol.wire.names import Backend, Seal, State

LOG = logging.getLogger("shmhost")

AT_ONCE = 4  # transfers from a host; more of them only share the same links
RETRY_S = 5.0  # after a refusal, as of a quota


class Replicas:
    """The replicas of this host by name, and the transfers that are under way.

    `sources` returns the addresses of hosts that have a payload, by its hash and the host that announced it.
    """

    def __init__(
        self,
        plan: FleetConfig,
        hub: Hub,
        engine: Engine,
        threads: Threads,
        address: str,
        sources: Callable[[bytes, str], set[str]],
        published: Callable[[Replica], None],
    ) -> None:
        self.current: dict[str, Replica] = {}
        self.pulls: dict[str, Pull] = {}
        self.failed: dict[str, tuple[str, float]] = {}  # by name: why there is no replica, and since when
        self._plan = plan
        self._hub = hub
        self._threads = threads
        self._published = published
        self._fetching = Fetching(plan, engine, threads, address, sources, self.wake)
        self.counts: Counter[str] = self._fetching.counts
        self.lags: Latency = Latency(LAGS)  # of copies, from the announcement to the publish here
        self.bandwidth: Bandwidth = self._fetching.bandwidth
        self._ending: dict[str, set[asyncio.Task[None]]] = {}  # by name: they have it until they have ended
        # By host, so that one whose transfers do not end is in the way of none of another.
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))
        self.origins: dict[int, str] = {}  # by the number of each region that is or was a replica: its host
        # By name, what was unlinked here, its host and generation: not copied again before the next one.
        self.dropped: dict[str, tuple[str, int]] = {}

    def follow(self, announcement: Announcement, host: str, *, is_wanted: bool, heard_s: float = 0.0) -> None:
        """Copy what a host announces, if that is wanted or an older generation of it is here.

        `heard_s` is when it was announced, if that is not now.
        """
        name = announcement.name
        replica, pull = self.current.get(name), self.pulls.get(name)
        if replica is not None and replica.host == host and is_of(replica, announcement):
            placing.chmod(self._hub, replica.region, announcement.mode)
            if not replica.announcement.is_newer_than(announcement):
                replica.announcement = announcement
            return
        if pull is not None and pull.host == host:
            if not pull.confirm(announcement) and pull.is_older_than(announcement):
                self._follow_up(pull, announcement)
            return
        if pull is not None:
            self._cancel(pull)
        if self.dropped.get(name) == (host, announcement.generation):
            return
        if is_wanted or replica is not None:
            if replica is None and self._adopt(announcement, host):
                return
            self._begin(announcement, host, heard_s or time.monotonic())

    def _follow_up(self, pull: Pull, announcement: Announcement) -> None:
        """Take a newer generation of what is under way: that ends first, if it has begun.

        Otherwise a name that is replaced faster than it is copied would have no copy.
        """
        if pull.next is not None or not pull.is_placed:
            self.counts["skipped"] += (pull.next or pull.announcement).generation < announcement.generation
        if pull.is_placed:
            pull.next, pull.next_s = announcement, time.monotonic()
            pull.changed.set()
        else:
            pull.announcement, pull.began_s = announcement, time.monotonic()

    def end(self, name: str, host: str) -> None:
        """A region is gone at the host that had announced it."""
        self.failed.pop(name, None)
        pull, replica = self.pulls.get(name), self.current.get(name)
        if pull is not None and pull.host == host:
            self._cancel(pull)
        if replica is not None and replica.host == host:
            del self.current[name]
            placing.unlink(self._hub, replica.region)

    def forget(self, host: str) -> None:
        """A host is not known any more; no copy of it is here or under way."""
        self._slots.pop(host, None)

    def check(self, name: str) -> None:
        """Look whether a name was unlinked on this host, or replaced: then it is not a replica any more."""
        replica = self.current.get(name)
        if replica is not None and self._hub.registry.current.get(name) is not replica.region:
            del self.current[name]
            self.dropped[name] = replica.host, replica.announcement.generation

    def wake(self) -> None:
        """Sources may have come: let all transfers look."""
        for pull in self.pulls.values():
            pull.changed.set()

    def find(self, name: str, tree: bytes) -> Replica | None:
        """Return a replica with this hash."""
        replica = self.current.get(name)
        return replica if replica is not None and replica.announcement.tree == tree else None

    def memory(self) -> int:
        """Return what replicas and transfers take of the budget."""
        announced = [each.announcement for each in self.current.values()]
        announced += [each.announcement for each in self.pulls.values() if each.is_placed]
        return sum(each.capacity + REGION_OVERHEAD for each in announced)

    def retries(self) -> Iterator[str]:
        """Yield the names whose refusal is old enough to try again."""
        now_s = time.monotonic()
        yield from [name for name, (_, since_s) in self.failed.items() if now_s > since_s + RETRY_S]

    async def close(self) -> None:
        """End all transfers."""
        tasks = [pull.task for pull in self.pulls.values() if pull.task is not None]
        tasks += [task for tasks in self._ending.values() for task in tasks]
        self.pulls.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._fetching.close()

    def leave(self, address: str) -> None:
        """A host has gone."""
        self._fetching.leave(address)

    def _adopt(self, announcement: Announcement, host: str) -> bool:
        """Take a region that clients have kept over a SIGKILL of this host: it was sealed as a whole copy."""
        region = self._hub.registry.current.get(announcement.name)
        if region is None or region.mode & 0o222 or region.seal is not Seal.FULL:
            return False
        own = region.span.address, region.room, region.created_ns
        if own != (announcement.address, announcement.room, announcement.created_ns):
            return False
        self.current[announcement.name] = Replica(announcement, host, region, [], 0.0)
        self.origins[region.number] = host
        return True

    def _begin(self, announcement: Announcement, host: str, began_s: float) -> None:
        pull = Pull(announcement, host, began_s)
        self.pulls[announcement.name] = pull
        pull.task = asyncio.get_running_loop().create_task(self._pulling(pull))

    def _cancel(self, pull: Pull) -> None:
        name, task = pull.announcement.name, pull.task
        self.pulls.pop(name, None)
        if task is not None:
            self._ending.setdefault(name, set()).add(task)
            task.add_done_callback(lambda task: self._ended(name, task))
            task.cancel()

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        tasks = self._ending[name]
        tasks.discard(task)
        if not tasks:
            del self._ending[name]

    async def _pulling(self, pull: Pull) -> None:
        name = pull.announcement.name
        try:
            if before := self._ending.get(name):
                await asyncio.wait(list(before))
            async with self._slots[pull.host]:
                await self._pull(pull)
            self.failed.pop(name, None)
        except asyncio.CancelledError:
            raise
        except Superseded:
            self.counts["skipped"] += 1
        except Exception as error:
            if self.failed.get(name, ("", 0.0))[0] != str(error):
                LOG.warning("fleet %s: no copy of %r: %s", self._plan.fleet, name, error)
            self.failed[name] = str(error), time.monotonic()
            self.counts["failed"] += 1
            if not isinstance(error, ShmError | OSError):
                LOG.exception("fleet %s: a transfer has failed", self._plan.fleet)
        finally:
            if self.pulls.get(name) is pull:
                del self.pulls[name]
                if pull.next is not None:
                    self.follow(pull.next, pull.host, is_wanted=True, heard_s=pull.next_s)

    async def _pull(self, pull: Pull) -> None:
        registry = self._hub.registry
        user, owner = None, Peer(os.geteuid(), os.getegid())
        while user != pull.announcement.user:
            user = pull.announcement.user
            owner = await self._threads.run(self._owner, user)
        announcement = pull.announcement  # the latest one, from here on: the next ones wait
        self._check_memory(announcement)
        older = self.current.get(announcement.name)
        region = placing.begin(registry, announcement, owner, older.region if older is not None else None)
        pull.is_placed = True
        try:
            bring = self._bring_small if chunk_count(region.room) == 1 else self._bring
            header, leaves = await bring(pull, region)
            announcement = pull.announcement  # with the hash of all
            if region.state is not State.CREATING:
                raise RegionBusy(f"the copy of {announcement.name!r} was ended on this host")
            registry.check_place(region)
            placing.publish(self._hub, region, header, announcement.mode)
        except BaseException:
            registry.abort(region)
            raise
        lag_s = time.monotonic() - pull.began_s
        replica = Replica(announcement, pull.host, region, leaves, lag_s)
        self.current[announcement.name] = replica
        self.origins[region.number] = pull.host
        self.lags.note(int(lag_s * 1e9))
        self._published(replica)

    async def _bring(self, pull: Pull, region: Region) -> tuple[Header, list[bytes]]:
        """Make the object of a replica, with all that belongs there; return its header, and its hashes."""
        memory_object = await self._threads.make(
            self._hub.make_object, Backend.MEMFD, region.name, region.capacity
        )
        region.object = memory_object
        assert isinstance(memory_object, Memfd)
        target = partial(Target, memory_object.writer(), region.room)
        leaves = await self._fetching.fetch(pull, target)
        header = placing.header(self._hub.registry, region, pull.announcement)
        await self._threads.run(memory_object.publish, header.pack(), Seal.FULL)
        return header, leaves

    async def _bring_small(self, pull: Pull, region: Region) -> tuple[Header, list[bytes]]:
        """As `_bring`, of one chunk: its object is made once that is here."""
        held: list[Held] = []

        def target(_: int) -> Held:
            held[:] = [Held()]
            return held[0]

        leaves = await self._fetching.fetch(pull, target)
        header = placing.header(self._hub.registry, region, pull.announcement)
        arguments = region.name, region.capacity, header.pack(), held[0].data(), (0, region.room)
        if region.room <= QUICK:
            region.object = Memfd.sealed(*arguments)
        else:
            region.object = await self._threads.make(Memfd.sealed, *arguments)
        return header, leaves

    def _check_memory(self, announcement: Announcement) -> None:
        limit = self._plan.memory
        if limit is None:
            limit = self._hub.registry.accounts.bytes.total // 2
        if self.memory() + announcement.capacity + REGION_OVERHEAD > limit:
            raise QuotaExceeded(
                f"replicas may have {limit} bytes on this host, and {announcement.name!r} has "
                f"{announcement.capacity}: raise `memory` in {self._plan.path}, or import less"
            )

    def _owner(self, user: str) -> Peer:
        """Return the owner of a replica: the user of that name, or the host's own. Never root by a name."""
        name = dict(self._plan.users).get(user, user)
        try:
            entry = pwd.getpwnam(name)
            if entry.pw_uid:
                return Peer(entry.pw_uid, entry.pw_gid)
        except (KeyError, ValueError, OSError):
            pass
        return Peer(os.geteuid(), os.getegid())
