"""The regions that this host shares: its exports, the replicas here, and announcements of the others.

In the thread of the loop. `exports` and `replicas` do the work; this part passes news on, and answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from shmhost.core.hub import Gauge
from shmhost.core.regions import Region
from shmhost.fleet import hashing
from shmhost.fleet.announcements import (
    Announcement,
    Holders,
    Known,
    announcement_of,
    gone_of,
    held_of,
)
from shmhost.fleet.catalogue import Pages, Reading
from shmhost.fleet.conflicts import Conflicts, choose
from shmhost.fleet.events import BUSY, Refusal
from shmhost.fleet.exports import Export, Exports
from shmhost.fleet.messages import ID_DIGITS, U64, Card, address, fields, pack, text
from shmhost.fleet.names import MAX_HOSTS
from shmhost.fleet.plan import slice_of
from shmhost.fleet.pulls import Replica
from shmhost.fleet.replicas import Replicas
from shmhost.fleet.sending import Sending
from shmhost.fleet.threads import Chunk, Threads
from shmhost.fleet.turns import TURNS_FROM, Turns
from shmhost.fleet.values import Values
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire.names import ChangeKind, State

if TYPE_CHECKING:
    from shmhost.fleet.service import Service

LOG = logging.getLogger("shmhost")

MAX_AWAITED = 10_000  # names that clients have waited for, the latest ones


class Sharing:
    """The regions that go from host to host. `news` is the number of the latest of this host's own."""

    def __init__(self, service: Service) -> None:
        plan, hub = service.plan, service.hub
        self.news: int = 0
        self.conflicts: Conflicts = Conflicts()
        self.ignored: int = 0  # announcements that the access list does not allow
        # By the identity of a host, which outlives its process; the one heard of last comes last.
        self.known: dict[str, Known] = {}
        self._service = service
        self._plan = plan
        self._registry = hub.registry
        self.threads: Threads = Threads()
        self._holders = Holders()
        self.awaited: OrderedDict[str, None] = OrderedDict()  # names that clients have waited for
        self._reading = Reading(service, self._take, self._gone)
        self._pages = Pages(lambda: {*self.exports.entries, *self.replicas.current})
        self._turns = Turns()
        self._is_hashing = False
        self._has_begun = False
        self.exports: Exports = Exports(
            hub.registry, service.allocator, plan.exports, self.threads, self._announce, self._end
        )
        self.replicas: Replicas = Replicas(
            plan, hub, service.engine, self.threads, service.address, self._sources, self._published
        )

        self.exports.is_lost = lambda number: number in service.claims.lost
        self.exports.renamed = self._turns.rename
        self.values: Values = Values(plan, hub, self.exports, service.socket_path)
        self.sending: Sending = Sending(plan, self.chunk_of, self.opened)

    def begin(self) -> None:
        """Take note of all changes of regions from now on, and of names that clients wait for; copy regions.

        Not before the host has its numbers, and those of regions that may come back.
        """
        hub, loop = self._service.hub, asyncio.get_running_loop()
        before = self._registry.note

        def note(kind: ChangeKind | State, region: Region) -> None:
            before(kind, region)
            loop.call_soon(self._note, kind, region)  # not inside of what the registry is doing

        self._registry.note = note
        if self._plan.fetch:
            hub.note_wait = self._await
        self._has_begun = True
        for name in self.exports.left(self.values.has):
            self.exports.remove(name)
        for region in list(self._registry.current.values()):
            is_known = self.exports.has(region, hashed=True)
            self._note(ChangeKind.CHANGED if is_known else ChangeKind.PUBLISHED, region)
        for name in [name for record in self.known.values() for name in record.names]:
            self._settle(name)
        for member in self._service.members.ours():
            if member.card is not None:
                self.meet(member.card)

    async def close(self) -> None:
        """End all transfers."""
        await self.values.close()
        await self.replicas.close()
        self.threads.close()

    def beat(self) -> None:
        """Do what is to be done now and then: what was refused may work now."""
        if not self._has_begun:
            return
        if self.exports.beat():
            self._start_hashing()
        self._turns.beat(time.monotonic())
        self.values.beat()
        again, failed = filter(self._has_source, self.replicas.retries()), self.replicas.failed
        for name in [*again, *[name for name in self.conflicts.names if name not in failed]]:
            self._settle(name)

    def meet(self, card: Card) -> None:
        """Take the card of a host: ask for what it has if this host has missed any of its news."""
        if not self._has_begun:
            return
        record = self._record(card.host)
        record.note(card.address, card.news)
        if record.is_behind:
            self._reading.start(card.address, record)
        elif self.replicas.pulls:
            self.replicas.wake()

    def _record(self, host: str) -> Known:
        """Return what is known of a host; of too many, the one not heard of for longest is forgotten.

        None whose copies are here: these go when it comes back without their names.
        """
        record = self.known.pop(host, None) or Known()
        self.known[host] = record
        if len(self.known) > MAX_HOSTS:
            current, pulls = self.replicas.current.values(), self.replicas.pulls.values()
            copied = {host, *(each.host for each in current), *(each.host for each in pulls)}
            oldest = next((each for each in self.known if each not in copied), None)
            if oldest is not None:
                self._forget(oldest)
        return record

    def _forget(self, host: str) -> None:
        for name in self.known.pop(host).names:
            self.replicas.end(name, host)
            if name in self.conflicts.names:
                self._settle(name)
        self.replicas.forget(host)

    def fall_behind(self) -> None:
        """News of any host may have been missed: ask all hosts, with their next cards."""
        for record in self.known.values():
            record.is_behind = True

    def leave(self, address: str) -> None:
        """A host has gone: its replicas here stay."""
        self._holders.leave(address)
        self.sending.bandwidth.forget(address)
        self.replicas.leave(address)

    def hear(self, kind: object, address: str, values: tuple[Any, ...]) -> None:
        """Take news of a host. RemoteProtocolError."""
        if not self._has_begun:
            return  # all is asked for when it begins
        host = address[:ID_DIGITS]
        record = self._record(host)
        (number,) = fields(values, U64)
        if record.hear(address, number):
            self._take(record, address, kind, values[1:])
        if record.is_behind:
            self._reading.start(address, record)

    def is_free_for(self, host: str, number: int) -> bool:
        """Whether a slice has no region here, but for replicas of this host."""
        if self._service.allocator.is_free(number):
            return True
        windows = tuple(window.range for window in self._service.allocator.windows)
        there = [
            region
            for region in self._registry.regions.values()
            if slice_of(windows, self._plan.slices, region.span) == number
        ]
        return bool(there) and all(self.replicas.origins.get(region.number) == host for region in there)

    def has_own(self, number: int) -> bool:
        """Whether a slice has regions here that are not copies."""
        windows = tuple(window.range for window in self._service.allocator.windows)
        return any(
            slice_of(windows, self._plan.slices, region.span) == number
            for region in self._registry.regions.values()
            if region.number not in self.replicas.origins
        )

    def answer_catalogue(self, asker: str, values: tuple[Any, ...]) -> bytes:
        """Answer with the announcements after a name, and the replicas here, some at a time."""
        _, after = fields(values, address, text(255))
        names, last = self._pages.page(after, partial(self._plan.access.may_import, asker))
        entries: list[tuple[object, ...]] = []
        for name in names:
            if name in self.exports.entries:
                entries.append(("new", *self.exports.entries[name].announcement))
            elif name in self.replicas.current:
                entries.append(("has", self.replicas.current[name].announcement.tree))
        return pack(self.news, last, entries)

    def answer_leaves(self, asker: str, values: tuple[Any, ...]) -> bytes:
        """Answer with the hashes of the chunks of a region."""
        _, name, tree = fields(values, address, text(255), held_of)
        self._check_import(asker, name)
        entry = self.exports.find(name, tree) or self.replicas.find(name, tree)
        if entry is None or not entry.leaves:
            raise Refusal(f"{name!r} is another generation here, or gone")
        return b"".join(entry.leaves)

    def chunk_of(self, asker: str, values: tuple[Any, ...]) -> tuple[str, int]:
        """Return the address of who asks for a chunk, and its size; Refusal, RemoteProtocolError."""
        source, entry, index = self._chunk_of(values)
        self._check_import(asker, values[1])
        tree, room = entry.announcement.tree, entry.region.room
        if room >= TURNS_FROM and not self._turns.admit(tree, room, source, time.monotonic()):
            raise Refusal(f"{BUSY}: others copy {values[1]!r} from here first")
        return source, hashing.part(room, index)[1]

    def _check_import(self, asker: str, name: str) -> None:
        if not self._plan.access.may_import(asker, name):
            raise Refusal(f"{asker!r} may not import {name!r} from {self._plan.name!r}: see [access] there")

    def opened(self, values: tuple[Any, ...]) -> Chunk:
        """Return a chunk that is asked for, which the caller closes; Refusal, RemoteProtocolError."""
        region, index = self._chunk_of(values)[1].region, values[3]
        assert region.object is not None
        offset, size = hashing.part(region.room, index)
        return Chunk(os.dup(region.object.reader()), HEADER_SIZE + offset, size)

    def _chunk_of(self, values: tuple[Any, ...]) -> tuple[str, Export | Replica, int]:
        asker, name, tree, index = fields(values, address, text(255), held_of, U64)
        entry = self.exports.find(name, tree) or self.replicas.find(name, tree)
        if entry is None or entry.region.object is None:
            raise Refusal(f"{name!r} is another generation here, or gone")
        if index >= hashing.chunk_count(entry.region.room):
            raise RemoteProtocolError(f"{name!r} has no chunk {index}")
        return asker, entry, index

    def gauges(self) -> tuple[Gauge, ...]:
        """Return the figures for metrics."""
        replicas = self.replicas
        counts, sending = replicas.counts, self.sending
        return (
            ("fleet_exports", "Regions that this host announces", len(self.exports.entries)),
            ("fleet_replicas", "Regions of other hosts that are here", len(replicas.current)),
            ("fleet_transfers", "Regions of other hosts that are on their way", len(replicas.pulls)),
            ("fleet_replica_bytes", "Memory of both", replicas.memory()),
            ("fleet_received_bytes", "Bytes of chunks that have come since the start", counts["bytes"]),
            ("fleet_bulk_bytes", "Of these, over connections of their own", counts["bulk"]),
            ("fleet_sent_bytes", "Bytes of chunks that were sent since the start", sending.sent),
            ("fleet_busy", "Chunks that were refused for a while, as others were waiting", sending.refused),
            ("fleet_send_waited_seconds", "For the limit of bandwidth", sending.bandwidth.waited_s),
            ("fleet_receive_waited_seconds", "Likewise, to ask for chunks", replicas.bandwidth.waited_s),
            ("fleet_lag_seconds", "From an announcement to the copy here", replicas.lags.copy()),
            ("fleet_skipped", "Generations that were replaced before they were copied", counts["skipped"]),
            ("fleet_conflicts", "Names that several hosts export", len(self.conflicts.names)),
            ("fleet_ignored", "Announcements that [access] does not allow", self.ignored),
            *self.values.gauges(),
            ("fleet_corrupt", "Wrong answers of hosts since the start", counts["corrupt"]),
            ("fleet_failed", "Regions that are wanted here and cannot be copied", len(replicas.failed)),
        )

    def _note(self, kind: ChangeKind | State, region: Region) -> None:
        if kind is State.FREED:
            self.replicas.origins.pop(region.number, None)
            return
        self.replicas.check(region.name)
        self.values.end_left(region)
        if region.arena is not None:
            self.values.look()
        is_copy = region.number in self.replicas.origins  # which may lie in a slice that both have had
        if not is_copy and self.exports.note(kind, region):
            self._start_hashing()

    def _start_hashing(self) -> None:
        if not self._is_hashing:
            self._is_hashing = True
            self._service.start(self._hash())

    async def _hash(self) -> None:
        try:
            await self.exports.hash_pending()
        finally:
            self._is_hashing = False

    def _announce(self, announcement: Announcement) -> None:
        self._tell("new", announcement.name, *announcement)
        self._settle(announcement.name)

    def _end(self, name: str, generation: int) -> None:
        self._tell("gone", name, name, generation)
        self._settle(name)

    def _published(self, replica: Replica) -> None:
        self._tell("has", replica.announcement.name, replica.announcement.tree)

    def _tell(self, kind: str, name: str, *values: object) -> None:
        """Tell the others of a name; those that may not import it get only the number of the news."""
        self.news += 1
        engine, access = self._service.engine, self._plan.access
        for peer in access.peers if access.peers is not None else ("all",):
            may = access.may_import(peer, name)
            engine.tell(pack(kind, self.news, *values) if may else pack("void", self.news), peer)

    def _await(self, names: Sequence[str]) -> None:
        """Take note that a client waits for names."""
        for name in names:
            if name.startswith(self._plan.fetch):
                self.awaited[name] = None
                self.awaited.move_to_end(name)
                self._settle(name)
        while len(self.awaited) > MAX_AWAITED:
            self.awaited.popitem(last=False)

    def _sources(self, tree: bytes, host: str) -> set[str]:
        members = self._service.members.ours()
        return {
            member.address
            for member in members
            if member.address[:ID_DIGITS] == host or self._holders.has(member.address, tree)
        }

    def _has_source(self, name: str) -> bool:
        """Whether a name can be copied now; else a transfer would only hold memory."""
        records = [(host, record.names[name]) for host, record in self.known.items() if name in record.names]
        return any(self._sources(announcement.tree, host) for host, announcement in records)

    def _follow(self, announcement: Announcement, host: str) -> None:
        name = announcement.name
        is_imported = bool(self._plan.imports) and name.startswith(self._plan.imports)
        self.replicas.follow(announcement, host, is_wanted=is_imported or name in self.awaited)

    def _take(self, record: Known, address: str, kind: object, values: tuple[Any, ...]) -> None:
        """Take one announcement, of news or of a catalogue."""
        host = address[:ID_DIGITS]
        if kind == "new":
            announcement = announcement_of(values)
            peer = self._service.engine.name_of(address)
            if not self._plan.access.may_export(peer, announcement.name):
                self._ignored(peer, announcement.name)
            elif record.announce(announcement):
                self._settle(announcement.name)
        elif kind == "gone":
            name, generation = gone_of(values)
            if record.end(name, generation):
                self._gone(name, host)
        elif kind == "has":
            (tree,) = fields(values, held_of)
            self._holders.note(address, tree)
            self._turns.end(tree, address)
            self.replicas.wake()

    def _ignored(self, peer: str, name: str) -> None:
        self.ignored += 1
        if self.ignored == 1:
            text = "fleet %s: %r announces %r, which [access] does not let it export; more of that is counted"
            LOG.warning(text, self._plan.fleet, peer, name)

    def _gone(self, name: str, host: str) -> None:
        """End a replica; another host that has the name is followed from now on."""
        self.replicas.end(name, host)
        self._settle(name)

    def _settle(self, name: str) -> None:
        """Follow the host that a name is to be copied from, and mark a name that several hosts have."""
        hosts = [host for host, record in self.known.items() if name in record.names]
        if self.conflicts.note(name, [*hosts, *self._own(name)]):
            text = "fleet %s: several hosts export %r, and all copy that of %r: use other names"
            LOG.warning(text, self._plan.fleet, name, self._service.host_name(self.conflicts.names[name][0]))
        present = {member.address[:ID_DIGITS] for member in self._service.members.ours()}
        replica = self.replicas.current.get(name)
        host = choose(hosts, present, replica.host if replica is not None else None)
        if host is not None and name not in self.exports.entries:
            self._follow(self.known[host].names[name], host)

    def _own(self, name: str) -> list[str]:
        return [self._service.address[:ID_DIGITS]] if name in self.exports.entries else []
