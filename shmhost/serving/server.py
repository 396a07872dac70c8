"""The host: its listening socket, its connections, threads for long work, a clean end.

It waits, and decides nothing: `session` handles the messages, `registry` has the regions.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any, NoReturn

import anyio
import anyio.abc

from shmhost.core.accounts import Accounts
from shmhost.core.generations import Generations
from shmhost.core.hub import Hub, Owner
from shmhost.core.meter import Meter
from shmhost.core.objects import Freeable, Memfd, MemoryObject, PosixShm
from shmhost.core.peers import Peer
from shmhost.core.registry import Registry
from shmhost.core.session import Session
from shmhost.core.successors import check_successor
from shmhost.core.work import PASS_ON, SETTLE, Steps, Work
from shmhost.machine.arena_memory import ArenaMemory, LedgerMemory
from shmhost.machine.board import SharedBoard, open_board
from shmhost.machine.growing_memory import GrowingMemfd
from shmhost.machine.peers import peer_of, peer_pidfd
from shmhost.machine.shm_names import ShmNames
from shmhost.machine.socket_file import SocketFile, inherited
from shmhost.machine.state_file import StateFile
from shmhost.serving import metrics, takeover
from shmhost.serving.absence import Absence
from shmhost.serving.arena_link import ArenaLink
from shmhost.serving.closing import Closer
from shmhost.serving.crew import Crew
from shmhost.serving.door import Door
from shmhost.serving.freeing import close_all
from shmhost.serving.handover import Estate, HandOver
from shmhost.serving.idle import Idle
from shmhost.serving.keeping import Expiry
from shmhost.serving.link import Link
from shmhost.serving.membership import Membership
from shmhost.serving.notes import Notes
from shmhost.serving.notify import Notifier
from shmhost.serving.old_boards import OldBoards
from shmhost.serving.patience import Patience
from shmhost.serving.policing import apply_policy
from shmhost.serving.predecessor import (
    EXPECT_S,
    end_returns,
    find_names,
    names_of,
    noting,
    take_over,
    take_up,
)
from shmhost.serving.store import Store
from shmhost.serving.takeover import Heritage
from shmhost.serving.turned_away import TurnedAway
from shmhost.serving.unread import Flight
from shmhost.serving.workers import Outcome
from shmhost.settings.config import Config
from shmhost.settings.policies import privileged_uids
from shmhost.settings.totals import totals_of
from shmprotocol.errors import QuotaExceeded, ShmError
from shmprotocol.wire import descriptors
from shmprotocol.wire.names import Backend

LOG = logging.getLogger("shmhost")


def backend_options() -> dict[str, Any]:
    """Return the options for anyio's asyncio backend: uvloop where it is installed."""
    return {"use_uvloop": importlib.util.find_spec("uvloop") is not None}


class Host:
    """A host on its socket. Runs on anyio's asyncio backend: links use the loop's callbacks.

    With a `listener` that was inherited it serves that one, closes it, and leaves its file alone. `leave`
    ends the process at once, and touches nothing: with it, this host can be taken over. With `takes_over` it
    takes the place of the one at its socket.

    InvalidArgument: its policy has mistakes.
    """

    def __init__(
        self,
        config: Config,
        listener: socket.socket | None = None,
        notifier: Notifier | None = None,
        leave: Callable[[], NoReturn] | None = None,
        *,
        store: Store | None = None,
        takes_over: bool = False,
    ) -> None:
        self.config = config
        self._takes_over = takes_over
        self._heritage: Heritage | None = None  # until it is taken
        self._leave = leave
        self._hand_over: HandOver | None = None  # while it serves, if it can be taken over
        self._scraped: tuple[int, ...] = ()  # see metrics.serving
        self._listener = listener
        self._notifier = notifier or Notifier({}, os.getpid())
        self._store = store or Store(self._notifier, 0)
        self._predecessor: socket.socket | None = None  # which was taken over, until it is gone
        self._notes = Notes(config.socket_path)
        self._membership = Membership(config)
        self._hub = self._make_hub()
        self.registry: Registry = self._hub.registry
        self._board: SharedBoard | None = None
        self._links: set[Link] = set()
        self._old_boards = OldBoards(self.registry.allocator)
        self._arena_links: set[ArenaLink] = set()
        self._closer = Closer()
        self._turned_away = TurnedAway(self._shut)
        self._flight = Flight(self.registry.accounts)
        self._stopped = anyio.Event()
        self._idle = Idle(config.until_idle, self._links, self.stop)
        self._crew: Crew | None = None  # while it serves
        self._state: StateFile | None = None
        self._shm_names = ShmNames("shmhost-none")  # until it serves

    def _make_hub(self) -> Hub:
        config, membership = self.config, self._membership
        registry = Registry(
            membership.allocator,
            Accounts(totals_of(config, membership.slices), privileged_uids()),
            time.time_ns,
            self._dispose,
            generations=Generations(self._notes.store_ceiling),
        )
        apply_policy(config, registry.accounts)
        hub = Hub(registry, secrets.token_hex(8), self._make_object, Meter(time.time_ns()), _warn)
        registry.note = noting(hub)
        hub.make_arena, hub.make_ledger_object = ArenaMemory, LedgerMemory
        hub.make_control = self._make_control
        hub.spare_max, hub.reserve_max = config.spares, config.reserve
        return hub

    async def serve(self, *, task_status: anyio.abc.TaskStatus[Host] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`, or until cancelled; then all regions are gone and the socket file too.

        HostError if the socket cannot be created: another host has it, or the path is another file.
        """
        cure = "choose another place with --socket or $SHMHOST_SOCKET"
        socket_file = SocketFile(self.config.socket_path, self.config.socket_mode, cure)
        snapshot, given = functools.partial(metrics.snapshot_of, self._hub), tuple[int, ...]()
        if self._takes_over:
            if self.config.metrics:
                metrics.load()
            self._membership.load()
            self._heritage = takeover.request(self.config)  # late: the clients of that host wait from here on
            self._heritage.check_fleet(self._membership.succeed)
            self._listener = self._heritage.share(socket_file)
            given = self._heritage.metrics(self.config.metrics)
        with inherited(self._listener, socket_file) if self._listener else socket_file as listener:
            try:
                async with (
                    self._membership.joined(self._hub),
                    metrics.serving(
                        self.config.metrics, self.config.socket_mode, snapshot, given
                    ) as self._scraped,
                ):
                    self._notes.lock = socket_file.lock
                    if self._heritage is None:
                        self._notes.begin(self._hub.meter, self.registry.generations)
                        self._state = take_up(f"{self.config.socket_path}.state", socket_file.lock, self._hub)
                        self._shm_names = find_names(socket_file.lock, self._hub)
                        self._open_board()
                        self._store.open(self._hub, self._closer)
                    await self._serve(listener, task_status)
            finally:
                for ledger in list(self._hub.ledgers.values()):
                    self._hub.end_ledger(ledger)
                self.registry.close()
                if self._board is not None:
                    self._board.close()
                if self._state is not None:
                    self._state.close(remove=not self._store.keeps)
        LOG.info("stopped")

    def _open_board(self, lines: int = 0) -> SharedBoard | None:
        """Make the board, if there is one, with at least so many lines."""
        names = max(self.config.board, lines) if self.config.board else 0
        self._board = board = open_board(self.registry.allocator, names)
        if board is not None:
            self.registry.board = board
            if self._state is not None:
                self._state.note_board(board.span)
        return board

    async def _serve(self, listener: socket.socket, task_status: anyio.abc.TaskStatus[Host]) -> None:
        self._crew = crew = Crew(self._hub)
        try:
            self._be_taken_over(listener, crew)
            await self._listen(listener, crew, task_status)
        finally:
            await crew.close()
            self._crew = None

    async def _listen(
        self, listener: socket.socket, crew: Crew, task_status: anyio.abc.TaskStatus[Host]
    ) -> None:
        loop = asyncio.get_running_loop()
        # No request has descriptors, but for those of connections that hand back what a killed host has left.
        descriptors.refuse(listener)
        patience = Patience()
        self._hub.be_patient = patience.wait
        if self._heritage is not None:
            self._take_over(self._heritage, crew)
        self._membership.begin(self._predecessor)
        ending = loop.call_later(EXPECT_S, end_returns, self._hub, self._state)
        absence = Absence(self._hub)
        absence.begin()
        expiry = Expiry(self._hub)
        door = Door(listener, self._closer, self._admit, crew.guests.latest)
        LOG.info("listening on %s", self.config.socket_path)
        task_status.started(self)
        self._idle.note()
        try:
            with self._notifier.serving(loop, f"listening on {self.config.socket_path}"):
                self._store.begin(self._predecessor)
                try:
                    await self._stopped.wait()
                finally:
                    self._store.keep()
                    door.close()
                    self._close_links()
                    await self._store.finish()
        finally:
            ending.cancel()
            self._idle.close()
            absence.close()
            patience.close()
            expiry.close()
            self._turned_away.close()
            self._flight.close()

    def _close_links(self) -> None:
        for link in list(self._links):
            link.close()
        for arena_link in list(self._arena_links):
            arena_link.close()

    def _be_taken_over(self, listener: socket.socket, crew: Crew) -> None:
        """Answer a successor from now on, if this process can end for it."""
        if self._leave is None:
            return
        lock = self._notes.lock
        assert lock is not None
        self._hub.check_successor = functools.partial(check_successor, self._hub, os.geteuid())
        links = self._links, self._arena_links, crew.lingering
        parts = self._hub, *links, crew.workers, crew.turns, listener, self._listener is not None, lock
        scraped = self.config.metrics, self._scraped
        manager, fleet = (self._notifier, self._store), (self._membership.describe, self._membership.part)
        self._hand_over = HandOver(Estate(*parts, *manager, self._old_boards, scraped, *fleet, self._leave))

    def _take_over(self, heritage: Heritage, crew: Crew) -> None:
        """Take the place of another host."""
        assert self._notes.lock is not None
        lock, path = self._notes.lock, f"{self.config.socket_path}.state"
        self._shm_names = names_of(lock)

        def open_next(lines: int) -> SharedBoard | None:
            self._state = take_over(path, lock, self._hub, self._shm_names)
            return self._open_board(lines)

        boards, names = self._old_boards, self._shm_names
        makers = open_next, self._make_link, self._make_control, crew.lingering.keep_from_elsewhere
        parts = takeover.Parts(self._hub, boards, names, *makers, self._membership.adopt)
        takeover.settle(heritage, parts)
        self._notifier.resume(*heritage.record.manager)
        self._store.resume(self._hub, *heritage.record.store)
        self._predecessor = heritage.detach()
        self._notes.count_start(self._hub.meter)
        self._heritage = None

    def stop(self) -> None:
        """Make `serve` return. Call it in the thread of the loop."""
        self._stopped.set()

    def _admit(self, sock: socket.socket) -> None:
        try:
            peer = peer_of(sock)
            self._make_link(sock, peer_pidfd(sock), peer, self._hub.returnables is not None)
            self._hub.meter.connections += 1
        except QuotaExceeded as error:
            self._hub.meter.refusals[error.code] += 1
            LOG.warning("refused a connection: %s", error, extra={"uid": peer.uid})
            self._turned_away.add(sock, str(error))
        except OSError as error:  # the peer is gone already, or no descriptor is left
            LOG.warning("refused a connection: %s", error)
            self._shut(sock)

    def _make_link(
        self, sock: socket.socket, pidfd: int | None, peer: Peer, may_return: bool = False
    ) -> Link:
        crew = self._crew
        assert crew is not None  # as long as it listens
        link = Link(
            sock,
            pidfd,
            self._hub.meter,
            lambda send: Session(self._hub, peer, send),
            self._start_work,
            self._closer,
            self._flight.share(peer.uid),
            crew.guests.receive(peer.uid),
            self._forget_link,
            crew.deaths,
            crew.lingering,
            may_return=may_return,
        )
        self._links.add(link)
        self._idle.note()
        return link

    def _forget_link(self, link: Link) -> None:
        self._links.discard(link)
        self._idle.note()
        self._old_boards.forget(link)

    def _shut(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the peer is gone already
            sock.shutdown(socket.SHUT_RDWR)
        self._closer.close(sock)

    def _make_control(self, owner: Owner, sock: socket.socket | None = None) -> ArenaLink:
        assert self._crew is not None  # as long as it listens
        share, turn = self._flight.owners_share(owner.peer.uid), self._crew.turns.of(owner.peer.uid)
        link = ArenaLink(owner, self._start_work, self._closer, share, turn, self._arena_links.discard, sock)
        self._arena_links.add(link)
        return link

    def _start_work(self, link: Link | ArenaLink, steps: Steps, work: Work) -> Callable[[], bool] | Outcome:
        if work in (SETTLE, PASS_ON):
            assert isinstance(link, Link)
            assert self._hand_over is not None
            return self._hand_over.start(link, steps, work)
        assert self._crew is not None  # links are closed before
        return self._crew.start(link, steps, work)

    def _make_object(
        self, backend: Backend, name: str, capacity: int, can_grow: bool = False
    ) -> MemoryObject:
        if can_grow:
            return GrowingMemfd(name, capacity)
        is_named = backend is Backend.SHM
        return PosixShm(name, capacity, self._shm_names) if is_named else Memfd(name, capacity)

    def _dispose(self, memory_object: Freeable) -> None:
        is_stored = self._store.takes(memory_object)
        if not is_stored and self._crew is not None:
            self._crew.freer.free(memory_object)
        elif not is_stored:
            close_all([memory_object])


def _warn(peer: Peer, error: ShmError) -> None:
    LOG.warning("refused uid %d pid %d: %s", peer.uid, peer.pid, error, extra={"uid": peer.uid})
