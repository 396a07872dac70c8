"""A host's part in its fleet: connects the engine with the host's state, all in the thread of the loop.

It waits for others, and decides nothing: `claims` has the agreement, `members` who is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import anyio.to_thread

from shmhost.core.hub import Gauge, Hub
from shmhost.core.state_records import FleetRecord
from shmhost.fleet import hashing, messages
from shmhost.fleet.bulk_server import BulkServer
from shmhost.fleet.bulk_wire import pack_ports
from shmhost.fleet.claims import Claims
from shmhost.fleet.config import FleetConfig
from shmhost.fleet.engine import Engine
from shmhost.fleet.events import Absent, Event, Lost, News, Present, Question, Refusal
from shmhost.fleet.joining import ASK_S, Joining
from shmhost.fleet.meeting import Meeting
from shmhost.fleet.members import Members, rank_of
from shmhost.fleet.messages import Card, pack, unpack
from shmhost.fleet.names import Identities
from shmhost.fleet.plan import SlicedAllocator
from shmhost.fleet.rejoining import rejoin
from shmhost.fleet.sharing import Sharing
from shmhost.fleet.status import own_status
from shmhost.fleet.succession import identity_of
from shmhost.fleet.threads import Chunk
from shmhost.machine import fleet_file
from shmprotocol.abi.header import ABI, PAGE
from shmprotocol.errors import HostError, HostGone, HostTimeout, RemoteProtocolError

LOG = logging.getLogger("shmhost")

HEARTBEAT_S = 1.0  # between news without anything new: whoever misses some notices it then
RETURN_S = 60.0  # in which clients hand regions of a killed host back
REPEAT_S = 2.0  # before a host is asked for its card again
PART_S = 2.0  # for links to end with a word; a process that ends cuts those that are left


class Service:
    """This host as a member of its fleet, from `join` to `close`."""

    def __init__(
        self,
        plan: FleetConfig,
        hub: Hub,
        allocator: SlicedAllocator,
        path: str,
        record: FleetRecord | None = None,
    ) -> None:
        self.plan = plan
        self.socket_path = path
        self.hub = hub
        self.allocator = allocator
        self._file = f"{path}.fleet"
        self._identity = identity = fleet_file.load(self._file) if record is None else identity_of(record)
        self.address: str = identity.host + secrets.token_hex(messages.ID_DIGITS // 2)
        self.claims: Claims = Claims(identity.host, plan.slices, plan.slice, identity.lost)
        allocator.own.update(self.claims.lost)  # regions of this host may come back there
        self.clock: Callable[[], float] = time.monotonic
        self._began_s = self.clock()
        self.members: Members = Members()
        self.engine: Engine = Engine(plan, self.address, self._handle)
        self._joining = Joining(self.engine, self.members, self.claims, allocator, self.address)
        self._meeting = Meeting(self.engine, self.members, self.address)
        self.links: int = 0
        self._dropped = 0  # times that the engine dropped messages
        self._identities = Identities(is_by_name=plan.access.peers is not None)
        self._said: set[str] = set()  # warnings that are given once
        self.sharing: Sharing = Sharing(self)
        self._bulk = BulkServer(plan, self._find_chunk)
        self._ports = b""  # where others fetch chunks
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: dict[str, Callable[[str, tuple[Any, ...]], bytes]] = {
            "card": lambda _, __: pack(*self.card()),
            "claim": self._answer_claim,
            "sees": lambda _, values: self._meeting.answer(values),
            "status": lambda asker, _: pack(own_status(self, asker)),
            "catalogue": self.sharing.answer_catalogue,
            "leaves": self.sharing.answer_leaves,
            "bulk": lambda _, __: self._ports,
        }

    def card(self) -> Card:
        """Return what this host says about itself now."""
        windows = tuple((window.base, window.size) for window in self.allocator.windows)
        held, fixed = self.claims.held, self.claims.fixed is not None
        plan = self.plan
        return Card(
            messages.FORM,
            self.address,
            plan.name,
            windows,
            plan.slices,
            PAGE,
            ABI,
            held,
            fixed,
            self.sharing.news,
        )

    async def join(self) -> None:
        """Come into the fleet, and to a slice. HostError: the others refuse this host, or none is free."""
        hashing.hasher()
        await self.appear()
        await self._agree(self._identity.slice)
        self.go_on()

    def rejoin(self, predecessor: socket.socket) -> None:
        """Come into the fleet as soon as the host whose place this one has taken ends a connection."""
        self.claims.held = self._identity.slice  # from the start: it was granted to that one
        self.start(rejoin(self, predecessor))

    async def appear(self) -> None:
        """Come into the sight of others. HostError. Cancelled, it waits until its call has ended."""
        run = self.sharing.threads.run
        await run(self.engine.open)
        self._ports = await run(self._listen)
        await run(self.engine.appear)

    def go_on(self) -> None:
        """Do from now on what each member does."""
        self.start(self._beat())
        self.start(self._meeting.run())
        LOG.info("fleet %s: slice %s, %d others", self.plan.fleet, self.claims.held, len(self.members.ours()))

    async def close(self) -> None:
        """Leave the fleet."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sharing.close()
        await anyio.to_thread.run_sync(self._bulk.close)
        await anyio.to_thread.run_sync(self.engine.close)

    def part(self) -> None:
        """Leave the fleet, as this process ends, whatever its parts are at; change nothing else. Waits."""
        for address in list(self.members.present):
            self.sharing.replicas.leave(address)

        def end() -> None:
            self.engine.close()
            self._bulk.close()

        thread = threading.Thread(target=end, name="shmhost-part", daemon=True)
        thread.start()
        thread.join(PART_S)

    def _listen(self) -> bytes:
        """Listen for those who fetch chunks; return what they are told. For a thread."""
        self._bulk.open()
        return pack_ports(self._bulk.ports(self.engine.session_id()))

    def _find_chunk(self, asker: str | None, values: tuple[Any, ...]) -> tuple[Chunk, float]:
        """Find a chunk for the host of a certificate; None: there is no TLS. Refusal, RemoteProtocolError."""
        (source,) = messages.fields(values, messages.address)
        if asker is None:
            asker = self.engine.name_of(source)
        elif self.plan.access.peers is not None:
            self._check_asker(asker, source)
        return self.sharing.sending.bulk(asker, values)

    def gauges(self) -> tuple[Gauge, ...]:
        """Return the figures for metrics."""
        ours, others = len(self.members.ours()), len(self.members.present)
        return (
            ("fleet_hosts", "Other hosts of the fleet that are present", ours),
            ("fleet_refused_hosts", "Other hosts that do not fit, or have not answered", others - ours),
            ("fleet_left_out", "Times that a host found no place", self.engine.left_out()),
            ("fleet_links", "Links to other hosts", self.links),
            *self.sharing.gauges(),
            ("fleet_dropped", "Times that more messages came than were taken", self._dropped),
            ("fleet_untold", "Messages that were dropped, as the links took too few", self.engine.untold),
            ("fleet_lost_slices", "Slices of others with regions of this host", len(self.claims.lost)),
            ("fleet_has_slice", "Whether this host has addresses to hand out", self.claims.held is not None),
        )

    def start(self, steps: Coroutine[Any, Any, None]) -> None:
        """Run steps beside all others; an error ends them alone, and is logged."""
        task = asyncio.get_running_loop().create_task(self._guard(steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guard(self, steps: Awaitable[None]) -> None:
        try:
            await steps
        except RemoteProtocolError as error:
            LOG.warning("fleet %s: %s", self.plan.fleet, error)
        except Exception:
            LOG.exception("fleet %s: a part of its work has failed", self.plan.fleet)

    async def _agree(self, preferred: int | None) -> None:
        number = await self._joining.agree(preferred, self._learn)
        self.allocator.use(number)
        if preferred is not None and preferred != number:
            LOG.warning("fleet %s: slice %s is another host's now", self.plan.fleet, preferred)
            self.claims.lose(preferred)
            self.allocator.own.add(preferred)
        await self.remember()

    async def remember(self) -> None:
        """Write the slices of this host to its file. HostError."""
        try:
            lost = tuple(self.claims.lost)
            identity = fleet_file.Identity(self._identity.host, self.claims.held, lost)
            await anyio.to_thread.run_sync(fleet_file.store, self._file, identity)
        except OSError as error:
            raise HostError(f"{self._file} cannot be written: {error.strerror}") from None

    async def _beat(self) -> None:
        while True:  # also after an error: a host that says nothing is gone for all others
            await self._guard(self._beat_once())
            await asyncio.sleep(HEARTBEAT_S)

    async def _beat_once(self) -> None:
        for peer in self.plan.access.peers if self.plan.access.peers is not None else ("all",):
            self.engine.tell(pack("card", *self.card()), peer, is_card=True)
        # Also those whose going was dropped, as too many events came: they would take the places of others.
        lost = [address for address in self.members.present if not self.engine.name_of(address)]
        for address in {*lost, *self.members.silent(time.monotonic())}:
            self._leave(address)
        self._learn()
        self.sharing.beat()
        self._say_limits()
        await self._forget_lost()
        self.links = await anyio.to_thread.run_sync(self.engine.links)

    def _say_limits(self) -> None:
        """Say once of each limit that it was reached."""
        limits = {
            "so many hosts are there that one found no place": self.engine.left_out(),
            "regions change faster than the links take that: other hosts ask for it": self.engine.untold,
        }
        for text in [text for text, count in limits.items() if count and text not in self._said]:
            self._said.add(text)
            LOG.warning("fleet %s: %s; more of that is counted", self.plan.fleet, text)

    async def _forget_lost(self) -> None:
        """Forget lost slices in which nothing of this host lies any more, once clients had time to return."""
        empty = [number for number in self.claims.lost if not self.sharing.has_own(number)]
        if empty and self.clock() > self._began_s + RETURN_S:
            self.claims.lost = [number for number in self.claims.lost if number not in empty]
            LOG.info("fleet %s: nothing is left in slices %s, which were lost", self.plan.fleet, empty)
            await self.remember()

    def host_name(self, host: str) -> str:
        """Return the name of a host by its identity, as far as it is known."""
        return self.plan.name if host == self._identity.host else self._identities.name_of(host) or host

    def _learn(self) -> None:
        """Ask hosts for their cards, whose answer is missing."""
        now_s = time.monotonic()
        for member in self.members.pending():
            if not member.heard_s or now_s > member.heard_s + REPEAT_S:
                member.heard_s = now_s
                self.start(self._ask_card(member.address))

    async def _ask_card(self, address: str) -> None:
        try:
            answer = await self.engine.ask(address, pack("card", self.address), ASK_S)
        except (Refusal, HostGone, HostTimeout):
            return  # asked again, or gone
        self._take_card(address, unpack(answer))

    def _handle(self, event: Event) -> None:
        """Take an event of the engine."""
        try:
            self._take(event)
        except Exception:
            LOG.exception("fleet %s: a part of its work has failed", self.plan.fleet)

    def _take(self, event: Event) -> None:
        if isinstance(event, Present):
            self.members.appear(event.address)
            self._learn()
        elif isinstance(event, Absent):
            self._leave(event.address)
        elif isinstance(event, Lost):
            self._dropped += 1
            LOG.warning("fleet %s: more messages came than were taken: all is asked for", self.plan.fleet)
            self.sharing.fall_behind()
        elif isinstance(event, Question):
            self._answer(event)
        elif isinstance(event, News):
            self._hear(event)

    def _leave(self, address: str) -> None:
        member = self.members.leave(address)
        self.sharing.leave(address)
        self.claims.forget(address[: messages.ID_DIGITS])
        if member is not None:
            LOG.info("fleet %s: %r is gone", self.plan.fleet, member.name)

    def _hear(self, news: News) -> None:
        if not self.members.hear(news.address, time.monotonic()):
            return
        try:
            kind, *values = unpack(news.data)
            if kind == "card":
                self._take_card(news.address, tuple(values))
            elif self.members.present[news.address].is_one_of_us:
                self.sharing.hear(kind, news.address, tuple(values))
        except (RemoteProtocolError, ValueError) as error:
            self._blame(news.address, error)

    def _blame(self, address: str, error: Exception) -> None:
        LOG.warning("fleet %s: ignored a message of %s: %s", self.plan.fleet, address, error)

    def _answer(self, question: Question) -> None:
        try:
            kind, *values = unpack(question.data)
            if values and isinstance(values[0], str):  # all but a status begin with the address of the asker
                self._check_asker(question.asker, values[0])
            if kind == "chunk":
                self.sharing.sending.answer(question, tuple(values))
                return
            answer = self._answers.get(kind) if isinstance(kind, str) else None
            if answer is None:
                question.refuse(f"unknown question {kind!r:.40}")
            else:
                question.reply(answer(question.asker, tuple(values)))
        except (RemoteProtocolError, Refusal, ValueError) as error:
            question.refuse(str(error)[: messages.MAX_REASON])

    def _check_asker(self, name: str, address: str) -> None:
        if self.engine.name_of(address) not in ("", name):
            raise Refusal(f"{name!r} asks with the address of {self.engine.name_of(address)!r}")

    def _answer_claim(self, _asker: str, values: tuple[Any, ...]) -> bytes:
        claim = messages.claim_of(values)
        member = self.members.present.get(claim.address)
        if member is not None and member.refused:
            raise Refusal(member.refused)
        rank = not claim.fixed, claim.address[: messages.ID_DIGITS]
        reason = self.claims.answer(
            claim.number, rank, time.monotonic(), functools.partial(self.sharing.is_free_for, rank[1])
        )
        if reason:
            raise Refusal(reason)
        return pack("granted")

    def _take_card(self, address: str, values: tuple[Any, ...]) -> None:
        card = messages.card_of(values)
        if card.address != address:
            raise RemoteProtocolError(f"{address} shows the card of {card.address}")
        self._check_identity(card)
        before = self.members.present.get(address)
        if before is None:
            return
        is_new, refused = before.card is None, before.refused
        member = self.members.take(self.card(), card, time.monotonic())
        if member.refused:
            if member.refused != refused:
                LOG.error("fleet %s: %r is refused: %s", self.plan.fleet, member.name, member.refused)
            return
        if is_new:
            LOG.info("fleet %s: %r is there", self.plan.fleet, member.name)
        self.sharing.meet(card)
        if self.claims.meet(card.held, rank_of(card)):
            self._lose(card)

    def _check_identity(self, card: Card) -> None:
        """With an access list, refuse a card with the name or the identity of another host."""
        own = self.engine.name_of(card.address)
        if self.plan.access.peers is not None and own != card.name:
            raise RemoteProtocolError(f"{card.address} of {own!r} shows a card of {card.name!r}")
        name = self._identities.note(card.host, card.name)
        if self.plan.access.peers is not None and name != card.name:
            raise RemoteProtocolError(f"{card.name!r} shows the identity of {name!r}")

    def _lose(self, card: Card) -> None:
        """Hand out of another slice: a host that comes first uses this one, since a partition."""
        number = card.held
        reason = f"slice {number} is also used by {card.name!r}, which comes first"
        LOG.error("fleet %s: %s. The regions there stay, and keep their names", self.plan.fleet, reason)
        self.allocator.use(None, reason)
        self.start(self.remember() if self.claims.fixed is not None else self.agree_again())

    async def agree_again(self) -> None:
        """Come to another slice, however long that takes."""
        while self.claims.held is None:
            try:
                await self._agree(None)
            except HostError as error:
                LOG.error("fleet %s: %s", self.plan.fleet, error)
                await asyncio.sleep(REPEAT_S)
        LOG.info("fleet %s: slice %s", self.plan.fleet, self.claims.held)


@contextlib.asynccontextmanager
async def joined(
    plan: FleetConfig, hub: Hub, allocator: SlicedAllocator, path: str, record: FleetRecord | None = None
) -> AsyncIterator[Service]:
    """Be a member of a fleet. `path` is that of the host's socket, and absolute.

    With the record of a host whose place this one takes, it joins only when it is told to `rejoin`.
    """
    service = Service(plan, hub, allocator, path, record)
    try:
        if record is None:
            await service.join()
        yield service
    finally:
        with anyio.CancelScope(shield=True):
            await service.close()
