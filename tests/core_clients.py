"""Clients and owners as the pure core of a host sees them: see `core_machine`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from shmhost.core.board import Board
from shmhost.core.hub import Owner
from shmhost.core.ledgers import Ledger
from shmhost.core.peers import Peer
from shmhost.core.processes import Process
from shmhost.core.session import Session
from shmhost.core.work import PAUSE, Steps
from shmhost.machine.arena_memory import LedgerMemory
from shmhost.machine.returned import Returnables
from shmhost.serving.workers import attempt
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack

if TYPE_CHECKING:
    from core_machine import Model
    from core_owners import Owners


class Held(NamedTuple):
    """What a client hands back: regions with their addresses, ledgers, its own arenas; and descriptors."""

    regions: dict[int, tuple[int, int]]
    ledgers: dict[int, int]
    arenas: dict[int, int]


class Taking(Returnables):
    """Takes back what clients hand back, and knows which of them live."""

    def __init__(self, pids: set[int]) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self._pids = pids

    def adopt_ledger(self, descriptor: int) -> KeptLedger:
        return KeptLedger.handed_back(os.dup(descriptor), descriptor)

    def may_be(self, process: Process, pid: int) -> bool:
        return process.pid == pid

    def is_gone(self, process: Process) -> bool:
        return process.pid not in self._pids


class Control:
    """A control socket: `is_full` while its owner reads nothing, so that news of ledgers wait in it."""

    def __init__(self, owner: Owner, owners: Owners) -> None:
        self.owner = owner
        self._owners = owners
        self.is_full = True
        self.is_open = True
        self.heard: set[int] = set()  # ledgers
        self.kept: set[int] = set()  # that it was told of without having them
        self.messages = 0
        self._waiting: list[int] = []
        self._theirs = os.open(os.devnull, os.O_RDONLY)

    def theirs(self) -> int:
        return self._theirs

    def hand_over(self) -> None:
        os.close(self._theirs)

    def answer(self, kind: int, code: int, size: int) -> None:
        assert self.is_open

    def tell_ledger(self, ledger: Ledger) -> None:
        if self.is_full:
            self._waiting.append(ledger.number)
        else:
            self._hear(ledger.number)

    def has_unsent(self, number: int) -> bool:
        return number in self._waiting

    def tell_forget(self, number: int) -> None:
        while number in self._waiting:  # it goes without the ledger
            self._waiting.remove(number)
            self.messages += 1
            self.kept.add(number)
        assert number in self.heard | self.kept
        self.heard.discard(number)
        self.kept.discard(number)
        self.messages += 1

    def tell_start(self, board: Board, line: int, count: int) -> None:
        self.messages = count

    def tell_kept(self, number: int) -> None:
        self.kept.add(number)
        self.messages += 1

    def tell_rest(self) -> None:
        self.messages += 1

    def take_back(self, number: int) -> bool:
        if number not in self._waiting:
            return False
        self._waiting.remove(number)
        return True

    def read(self) -> None:
        """Let the owner read all that waits."""
        self.is_full = False
        while self._waiting:
            self._hear(self._waiting.pop(0))

    def close(self, *, is_by_owner: bool = False) -> None:
        if self.is_open:
            self.is_open = False
            self._owners.end(self.owner._region, is_by_owner=is_by_owner)  # type: ignore[attr-defined]
            self.owner.ended(is_by_owner=is_by_owner)

    @property
    def sent(self) -> int:
        """Messages about ledgers, with those that wait."""
        return self.messages + len(self._waiting)

    def _hear(self, number: int) -> None:
        self.heard.add(number)
        self.kept.discard(number)
        self.messages += 1


class Client:
    """A connection as a link has it: one request at a time, whose Work is under way or has not begun."""

    def __init__(self, model: Model, uid: int, pid: int) -> None:
        self._model = model
        self.pid = pid
        self.steps: Steps | None = None
        self._work: Any = None
        self._is_begun = False
        self.is_dead = False
        self.lives_on = False  # its process, though it is dropped
        self.is_deaf = False  # the next message with descriptors fails
        self.leases: dict[int, tuple[int, int]] = {}  # to region and address, as it was told
        self.creating: list[int] = []  # regions and spares, as it was told
        self.session = Session(model.hub, Peer(uid, uid, pid), self._hear)
        self.session.handle(m.Hello(1, m.VERSION, m.VERSION, "model"))

    def say(self, message: m.Message) -> None:
        """Send a request, and leave its first Work that is not quick to `work`."""
        if isinstance(message, m.Release):
            for lease in message.leases:
                self.leases.pop(lease, None)
        try:
            self.steps = self.session.handle(message)
        except RemoteProtocolError:
            self.die()
            return
        self._go_on((None, None))

    def say_bytes(self, message: m.Message) -> None:
        """Send a request by the road of the most frequent ones, or by the other if that does not take it."""
        try:
            done = self.session.answer(pack(message), self._hear_bytes)
        except RemoteProtocolError:
            self.die()
            return
        if done is None:
            self.say(message)
        elif len(done) == 3:
            self.steps = done[2]
            self._go_on((None, None))

    def work(self) -> None:
        """Do the Work that its request waits for, and go on."""
        self._is_begun = False
        self._go_on(attempt(self._work.call))

    def begin_work(self) -> None:
        """Have a thread begin with the Work: it cannot be taken back from now on."""
        self._is_begun = True

    def die(self) -> None:
        """End the connection; at once, or when its Work is done."""
        self.is_dead = True
        if not self.lives_on:
            self._model.pids.discard(self.pid)
        self.leases.clear()
        if self.steps is not None and not self._is_begun:
            self.steps.close()
            self.steps = None
        if self.steps is None:
            self._end()

    def _go_on(self, outcome: tuple[Any, BaseException | None]) -> None:
        if self.steps is None:
            return
        try:
            while True:
                result, error = outcome
                self._work = self.steps.send(result) if error is None else self.steps.throw(error)
                if self._work is not PAUSE and not self._work.is_quick:
                    return
                outcome = attempt(self._work.call)
        except StopIteration:
            self.steps = None
        except RemoteProtocolError:
            self.steps = None
            self.is_dead = True
            self._model.pids.discard(self.pid)
        if self.is_dead:
            self._end()

    def _end(self) -> None:
        self.leases.clear()
        if self in self._model.clients:
            self._model.clients.remove(self)
            self.session.close()

    def _hear(self, message: m.Message, fds: Sequence[int], *_notes: object) -> None:
        if self.is_dead:
            return
        if self.is_deaf and fds:
            self.is_deaf = False
            raise OSError(24, "no descriptor is left to queue it")
        for fd in fds:
            os.fstat(fd)
        if isinstance(message, m.Created | m.ArenaMade):
            self.creating.append(message.region)
        elif isinstance(message, m.Published):
            self.creating += [spare.region for spare in message.spares]
            self._learn(message.grant)
        elif isinstance(message, m.Opened):
            for grant in message.grants:
                self._learn(grant)
        elif isinstance(message, m.Restored):
            self.leases |= {g.lease: (g.region, g.address) for g in message.grants if g.lease}

    def _hear_bytes(self, frame: bytes, fds: Sequence[int], *_notes: object) -> None:
        for message in messages_of(frame, len(fds)):
            self._hear(message, fds)

    def _learn(self, grant: m.Grant) -> None:
        self._model.check_generation(grant)
        if grant.lease:
            assert grant.lease not in self.leases
            self.leases[grant.lease] = grant.region, grant.address


def messages_of(frame: bytes, count: int) -> list[m.Message]:
    """Return the messages of a frame that came with so many descriptors, which stay whose they are."""
    connection = Connection("client")
    connection.receive(frame, [os.open(os.devnull, os.O_RDONLY) for _ in range(count)])
    messages = []
    for message, fds in connection.messages():
        for fd in fds:
            os.close(fd)
        messages.append(message)
    return messages


def client_end(ledger: Ledger) -> int:
    """Return a descriptor of a ledger that can write, as its client has: kept by the test's own object."""
    memory = ledger.object
    assert isinstance(memory, KeptLedger)
    return memory.kept


class KeptLedger(LedgerMemory):
    """A ledger of which the client's descriptor stays open, so that it can note that it uses a value."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = os.dup(self.writer())

    @classmethod
    def handed_back(cls, reader: int, writer: int) -> KeptLedger:
        """Return a ledger that its client has handed back, and keeps."""
        ledger = cls.restored(reader)
        assert isinstance(ledger, KeptLedger)
        ledger.kept = os.dup(writer)
        return ledger

    def close(self) -> None:
        os.close(self.kept)
        super().close()
