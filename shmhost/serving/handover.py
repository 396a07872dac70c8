"""How a host hands over to its successor, connections and all: see `takeover` for the other side.

First it settles: it reads nothing more from its clients until nothing is under way, or only the sealing and
growing of objects, which their creators can make wait: the successor refuses those requests. Then, in one
turn of its loop, it says what it has and passes all descriptors on, waits until the successor has taken them,
and lets it go. Both have every descriptor meanwhile, and the successor touches nothing: whatever happens to
it before it says that it serves, this host goes on as if nothing had been. After that word this process ends,
and touches nothing any more.

    successor                         this host
    Takeover              ->
                          <-          Done, when nothing is under way
    START                 ->          it has read that
                          <-          the record of the state, with all descriptors
    READY                 ->          it has taken all
                          <-          GO: the board of this host says nothing from here on
    SERVING               ->          this process ends

A host of a fleet is a member of it until then, so that nothing has to be undone when a successor fails. That
one joins when this process has ended: two processes with one identity are never in a fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from shmhost.core.heritage import Give, describe_ledgers, describe_meter, describe_regions, pack, write_board
from shmhost.core.hub import Hub
from shmhost.core.state_records import FleetRecord, HostRecord, LinkRecord
from shmhost.core.work import SETTLE, Steps, Work
from shmhost.machine.board import SharedBoard
from shmhost.machine.processes import may_run
from shmhost.machine.socket_file import Lock
from shmhost.serving import parcels
from shmhost.serving.arena_link import ArenaLink
from shmhost.serving.lingering import Lingering
from shmhost.serving.link import Link
from shmhost.serving.moving import describe_ended, describe_link
from shmhost.serving.notify import Notifier
from shmhost.serving.old_boards import OldBoards
from shmhost.serving.store import Store
from shmhost.serving.turns import Turns
from shmhost.serving.workers import Outcome, Workers
from shmprotocol.errors import HostGone, RegionBusy, ShmError, Unsupported

LOG = logging.getLogger("shmhost")

START, READY, GO, SERVING = b"a", b"r", b"g", b"s"
# For requests that are under way to be answered: a client can make its own take as long as it likes, and no
# other is served meanwhile.
SETTLE_S = 1.0
LOOK_AGAIN_S = 0.001
# For each step of the successor: it takes 20 us for a region, and no client is served meanwhile.
ANSWER_S = 10.0
STOP_S = 1.0  # for a successor to stand still: it does at once, unless the kernel is at work for it


@dataclass(slots=True)
class Estate:
    """The parts of a host that it hands over, as they are while it serves."""

    hub: Hub
    links: set[Link]
    arena_links: set[ArenaLink]
    lingering: Lingering
    workers: Workers
    turns: Turns
    listener: socket.socket
    is_inherited: bool
    lock: Lock
    notifier: Notifier
    store: Store
    old_boards: OldBoards
    metrics: tuple[str, tuple[int, ...]]
    describe_fleet: Callable[[], FleetRecord | None]
    part: Callable[[], None]  # leaves the fleet, and touches nothing else
    leave: Callable[[], NoReturn]  # ends the process, and touches nothing


class HandOver:
    """The attempts of successors, one at a time."""

    def __init__(self, estate: Estate) -> None:
        self._estate = estate
        self._task: asyncio.Task[None] | None = None
        self._held_ns = 0
        self._ended: socket.socket | None = None  # for successors, in place of one that is closed

    def start(self, link: Link, steps: Steps, work: Work) -> Callable[[], bool] | Outcome:
        """Carry out a step of the session of a successor."""
        if work is not SETTLE:
            return None, self._pass_on(link)
        if self._task is not None:
            return None, RegionBusy("another successor is taking this host over: try again")
        if link.pidfd is None and link.peer.pid <= 0:  # and so it could not be killed, see `_commit`
            return None, Unsupported(
                "the successor has no pid here: start it in the host's pid namespace, or on Linux 6.5"
            )
        task = self._task = asyncio.get_running_loop().create_task(self._settle(link, steps))

        def take_back() -> bool:
            self._task = None
            task.cancel()
            steps.close()
            self._go_on()
            return True

        return take_back

    async def _settle(self, link: Link, steps: Steps) -> None:
        error = None
        self._held_ns = time.monotonic_ns()
        end = time.monotonic() + SETTLE_S
        while self._is_busy(link):
            if time.monotonic() > end and self._can_leave(link):
                break
            if time.monotonic() > end:
                error = RegionBusy(
                    f"requests that are under way took longer than {SETTLE_S:g} s: try again. A client "
                    "can make the sealing of its own region wait"
                )
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        link.resume(steps, (None, error))  # which goes on with `_pass_on`, in this turn
        self._task = None
        self._go_on()

    def _is_busy(self, successor: Link) -> bool:
        for link in self._estate.links:
            if link is not successor:
                link.hold()
        for arena_link in self._estate.arena_links:
            arena_link.hold()
        self._estate.turns.finish()
        estate = self._estate
        is_working = any(link.is_working for link in estate.links if link is not successor)
        return is_working or estate.workers.is_busy or any(each.is_working for each in estate.arena_links)

    def _can_leave(self, successor: Link) -> bool:
        """Whether all that is under way is sealing and growing, which takes as long as clients like."""
        estate = self._estate
        all_links: list[Link | ArenaLink] = [*(estate.links - {successor}), *estate.arena_links]
        working = [each for each in all_links if each.is_working]
        if not all(each.can_be_left for each in working):
            return False
        for each in working:
            uid = each.peer.uid
            LOG.warning("the sealing or growing of an object of uid %d takes too long: given up", uid)
        return True

    def _go_on(self) -> None:
        for link in list(self._estate.links):
            link.release()
        for arena_link in list(self._estate.arena_links):
            arena_link.release()

    def _pass_on(self, link: Link) -> HostGone:
        """Pass all on, and end the process; return the reason if that failed."""
        LOG.info("handing over to pid %d", link.peer.pid)
        link.socket.settimeout(ANSWER_S)
        try:
            self._exchange(link)
        except (OSError, ShmError) as error:
            LOG.warning("goes on, because the takeover by pid %d failed: %s", link.peer.pid, error)
            link.socket.setblocking(False)
            return HostGone(f"the takeover failed: {error}")
        self._estate.notifier.hand_over(link.peer.pid)
        LOG.info("handed over to pid %d", link.peer.pid)
        self._estate.part()
        return self._estate.leave()

    def _exchange(self, link: Link) -> None:
        _expect(link.socket, START)
        record, fds = self._describe(link)
        parcels.send(link.socket, pack(record), fds)
        _expect(link.socket, READY)
        board = self._estate.hub.registry.board
        if isinstance(board, SharedBoard):
            board.hand_over({region.line for region in self._estate.hub.registry.arenas})
        try:
            _commit(link)
        except BaseException:
            if isinstance(board, SharedBoard):
                board.take_back()
                write_board(self._estate.hub.registry)
            raise

    def _describe(self, successor: Link) -> tuple[HostRecord, list[int]]:
        estate, hub, fds = self._estate, self._estate.hub, list[int]()
        registry, board = hub.registry, hub.registry.board

        def give(descriptor: int) -> int:
            if descriptor < 0:
                return -1
            fds.append(descriptor)
            return len(fds) - 1

        links = [link for link in estate.links if link is not successor]
        metrics, metrics_fds = estate.metrics
        record = HostRecord(
            hub.host,
            self._held_ns,
            (next(registry.numbers), next(registry.lease_numbers), next(hub.ledger_numbers)),
            registry.generations.record(),
            describe_meter(hub.meter),
            board.span if isinstance(board, SharedBoard) else (0, 0),
            estate.old_boards.record(links),
            describe_ledgers(hub, estate.lingering.ledgers(), give),
            describe_regions(registry, give),
            tuple([self._describe_link(link, give) for link in links]),
            tuple([arena_link.record(give, self._closed()) for arena_link in estate.arena_links]),
            give(estate.listener.fileno()),
            estate.is_inherited,
            give(estate.lock.fileno()),
            (metrics, tuple(map(give, metrics_fds))),
            estate.notifier.record(),
            estate.store.record(),
            hub.keeping.record(),
            estate.describe_fleet(),
        )
        return record, fds

    def _describe_link(self, link: Link, give: Give) -> LinkRecord:
        if not link.is_closing:
            return describe_link(link, give)
        return describe_ended(link, give(self._closed().fileno()))

    def _closed(self) -> socket.socket:
        if self._ended is None:
            self._ended, other = socket.socketpair()
            other.close()
        return self._ended


def _expect(sock: socket.socket, word: bytes) -> None:
    said = parcels.receive_exactly(sock, len(word))
    if said != word:
        raise HostGone(f"the successor said {said!r}, not {word!r}")


def _commit(link: Link) -> None:
    """Let the successor go; return when it serves. OSError: it is dead, and has served nobody."""
    link.socket.sendall(GO)
    try:
        _expect(link.socket, SERVING)
    except TimeoutError:
        # Only its end tells that it will not serve. If it says so at this very moment, it must not be killed.
        _signal(link, signal.SIGSTOP)
        _await_stop(link)
        is_over = not _has_said(link.socket)
        _signal(link, signal.SIGKILL if is_over else signal.SIGCONT)
        _expect(link.socket, SERVING)


def _signal(link: Link, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        if link.pidfd is not None:
            signal.pidfd_send_signal(link.pidfd, number)
        else:
            os.kill(link.peer.pid, number)


def _await_stop(link: Link) -> None:
    """Return when a successor that was told to stop stands still, or has ended, or does not within a second.

    Without a pid in this namespace that cannot be seen.
    """
    end = time.monotonic() + STOP_S
    with contextlib.suppress(OSError):  # no /proc
        while link.peer.pid > 0 and may_run(link.peer.pid) and time.monotonic() < end:
            time.sleep(LOOK_AGAIN_S)


def _has_said(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == SERVING
    except OSError:
        return False
