"""How a host takes the place of another, connections and all: see `handover` for the other side.

Until the other host says GO, this process touches nothing that clients can see: no socket is shut down, no
file removed, no byte sent. So it must not unwind when something goes wrong, but end at once.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from shmhost.core.heritage import (
    Makers,
    adopt_ledgers,
    adopt_regions,
    free_left,
    peer_from,
    resume_numbers,
    take_span,
    unpack,
    users_of_lines,
    write_board,
)
from shmhost.core.hub import Hub, Owner
from shmhost.core.ledgers import Ledger
from shmhost.core.peers import Peer
from shmhost.core.state_records import STATE_FORM, FleetRecord, HostRecord
from shmhost.core.window import Span
from shmhost.machine.arena_memory import ArenaMemory, LedgerMemory
from shmhost.machine.board import SharedBoard
from shmhost.machine.growing_memory import GrowingMemfd
from shmhost.machine.peers import peer_of
from shmhost.machine.shm_names import ShmNames
from shmhost.machine.socket_file import SocketFile
from shmhost.serving import parcels
from shmhost.serving.arena_link import ArenaLink
from shmhost.serving.handover import ANSWER_S, GO, READY, SERVING, SETTLE_S, START
from shmhost.serving.link import Link
from shmhost.serving.moving import resume_link
from shmhost.serving.old_boards import OldBoards
from shmhost.settings.config import Config
from shmprotocol.errors import AccessDenied, HostError, ShmError, Unsupported
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import Owned, close_all
from shmprotocol.wire.query import Query

LOG = logging.getLogger("shmhost")

MakeLink = Callable[[socket.socket, int | None, Peer, bool], Link]
MakeControl = Callable[[Owner, socket.socket], ArenaLink]


class Parts(NamedTuple):
    """The parts of the host that takes over."""

    hub: Hub
    old_boards: OldBoards
    names: ShmNames
    make_board: MakeBoard
    make_link: MakeLink
    make_control: MakeControl
    linger: Callable[[Ledger, int | None], None]  # keeps the ledger of a dropped client, with a pidfd or not
    adopt_fleet: Callable[[], None]  # goes on with what is shared with other hosts


MakeBoard = Callable[[int], SharedBoard | None]


class Heritage:
    """All that another host has, and the connection to it. Owns the descriptors until they are taken."""

    def __init__(self, path: str, sock: socket.socket, data: bytes, owned: Owned) -> None:
        self._path = path
        self._socket = sock
        self.record: HostRecord = unpack(data)
        self._fds = dict(enumerate(owned))
        owned.clear()

    def take(self, index: int) -> int:
        """Return a descriptor by its index, which is the caller's from then on; -1 for -1. Once for each.

        HostError: the other host has sent none.
        """
        if index < 0:
            return -1
        if index not in self._fds:
            raise HostError(f"it sent no descriptor {index}, or means two things by it")
        return self._fds.pop(index)

    def share(self, socket_file: SocketFile) -> socket.socket | None:
        """Give its socket and lock to a socket file; return the listener if that is a service manager's.

        HostError: they are something else.
        """
        with _explained(self._path):
            listener = socket.socket(fileno=self.take(self.record.listener))
            listener.setblocking(False)
            self._socket_file = socket_file
            socket_file.share(listener, self.take(self.record.lock))
            return listener if self.record.is_inherited else None

    def metrics(self, address: str) -> tuple[int, ...]:
        """Return the descriptors of its metrics, if they are served at this address; else they are closed."""
        with _explained(self._path):
            its_address, indices = self.record.metrics
            return tuple(map(self.take, indices)) if its_address == address else ()

    def check_fleet(self, succeed: Callable[[FleetRecord | None], None]) -> None:
        """Have `succeed` take the part that it has in a fleet. HostError: that cannot be."""
        with _explained(self._path):
            succeed(self.record.fleet)

    def detach(self) -> socket.socket:
        """Return the connection to the other host, which says nothing more and ends; the caller closes it."""
        self._socket.setblocking(False)
        return self._socket

    def accept(self) -> None:
        """Say that all is taken, and return when the other host serves no more. OSError: it serves on."""
        self._socket.sendall(READY)
        word = parcels.receive_exactly(self._socket, len(GO))
        assert word == GO, word
        # After GO the other host waits for this word or dies: if it is not there, it serves nobody any more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(SERVING)
        self._socket_file.own()
        close_all(self._fds.values())


def request(config: Config) -> Heritage:
    """Ask the host at the socket of a config for all that it has.

    HostError: it refuses, or there is none; or it is another user's, who could have this one remove any file
    and keep any descriptor; or what it says cannot be understood.
    """
    package = importlib.metadata.version("shmhost")
    query = Query(config.socket_path, SETTLE_S + ANSWER_S, f"shmhost {package}, its successor")
    with _explained(config.socket_path):
        query.__enter__()
        if query.version < m.HANDOVER_VERSION:
            raise Unsupported(f"it speaks version {query.version} of the protocol, without takeovers")
        query.ask(m.Takeover(2, STATE_FORM, package, config.windows), m.Done)
        sock = query.detach()
        _check_user(peer_of(sock).uid)
        sock.settimeout(ANSWER_S)
        sock.sendall(START)
        return Heritage(config.socket_path, sock, *parcels.receive(sock))


def _check_user(uid: int) -> None:
    if uid not in (0, os.geteuid()):
        raise AccessDenied(f"it is of uid {uid}, and this is uid {os.geteuid()}: take over as uid {uid}")


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Raise a HostError for whatever another host can be the cause of: it may say anything."""
    try:
        yield
    except (ShmError, OSError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise HostError(f"cannot take over the host at {path}: {error}") from error


def settle(heritage: Heritage, parts: Parts) -> None:
    """Take all, wait until the other host serves no more, and let the links go on.

    Ends the process when that cannot be: an end in any other way would close the connections of clients.
    """
    try:
        parts.hub.registry.accounts.is_adopting = True
        _adopt_regions(heritage, parts)
        links, controls = _adopt_links(heritage, parts)
        _adopt_lingering(heritage, parts)
        parts.adopt_fleet()
        parts.hub.registry.accounts.is_adopting = False
        heritage.accept()
    except BaseException as error:
        _give_up(error)
    free_left(parts.hub, heritage.record)
    for link in links:
        link.session.refuse_pending()
        link.release()
    for control in controls:
        control.release()
    count, waited_ms = len(parts.hub.registry.regions), (time.monotonic_ns() - heritage.record.held_ns) / 1e6
    LOG.info("took over %d regions; %d clients waited %.1f ms", count, len(links), waited_ms)


def _adopt_regions(heritage: Heritage, parts: Parts) -> None:
    record, registry = heritage.record, parts.hub.registry
    makers = Makers(parts.names, ArenaMemory.taken, LedgerMemory.taken, GrowingMemfd.taken)
    resume_numbers(parts.hub, record)
    adopt_ledgers(parts.hub, record.ledgers, heritage.take, makers)
    adopt_regions(parts.hub, record.regions, heritage.take, makers)
    parts.hub.keeping.resume(record.kept)
    for span in (record.board, *(old[:2] for old in record.old_boards)):
        if span[1]:
            take_span(registry, Span._make(span))
    users = users_of_lines(registry)
    board = parts.make_board(max(users, default=0))
    if board is not None:
        board.adopt_lines(users)
        registry.board = board
        write_board(registry)
    else:
        for region in registry.regions.values():
            region.line = 0


def _adopt_links(heritage: Heritage, parts: Parts) -> tuple[list[Link], list[ArenaLink]]:
    record, hub = heritage.record, parts.hub
    links, controls = list[Link](), list[ArenaLink]()
    records = {control.region: control for control in record.controls}

    def take_control(owner: Owner) -> ArenaLink:
        control = records[owner.number]
        arena_link = parts.make_control(owner, socket.socket(fileno=heritage.take(control.socket)))
        arena_link.resume_from(control, hub.ledgers)
        controls.append(arena_link)
        return arena_link

    make_control, hub.make_control = hub.make_control, take_control
    for link_record in record.links:
        sock = socket.socket(fileno=heritage.take(link_record.socket))
        sock.setblocking(False)
        process = heritage.take(link_record.process)
        peer = peer_from(link_record.session.peer)
        link = parts.make_link(sock, process if process >= 0 else None, peer, link_record.may_return)
        resume_link(link, link_record, heritage.take)
        links.append(link)
    hub.make_control = make_control
    for address, size, some in record.old_boards:
        parts.old_boards.add(Span(address, size), [links[number] for number in some])
    if record.board[1]:
        parts.old_boards.add(Span._make(record.board), links)
    return links, controls


def _adopt_lingering(heritage: Heritage, parts: Parts) -> None:
    """Keep the ledgers that no session has: before Linux 6.5, there is no pidfd to tell them by."""
    for record in heritage.record.ledgers:
        ledger = parts.hub.ledgers[record.number]
        if ledger.user is None:
            parts.linger(ledger, heritage.take(record.process) if record.process >= 0 else None)


def _give_up(error: BaseException) -> NoReturn:
    is_bug = not isinstance(error, OSError | HostError)
    LOG.error("cannot take over, so the other host serves on: %s", error, exc_info=is_bug)
    logging.shutdown()
    os._exit(1)
