"""What the clients of a killed host have of arenas, and how they hand it back."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

from arena_support import SIZE, ArenaPeer, Note, Owned
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import (
    ARENA_BACK,
)
from support import Machine

OPEN = m.Open(3, ("camera",), (), False)


class Kept:
    """What the clients of a killed host have: an owner's arena, and a reader's arena and ledger."""

    def __init__(self, owned: Owned, opened: m.Opened, fds: list[int]) -> None:
        self.memory = owned.memory
        self.region = owned.made.region
        self.address = owned.made.address
        self.arena, self.ledger_memory, event = fds
        self.ledger = opened.ledger[0]
        os.close(event)


@contextlib.contextmanager
def kept(path: str, *, max_size: int = 2 * SIZE, keep: bool = True, mode: int = 0o644) -> Iterator[Kept]:
    """Make an arena, and have a reader join it; their connections end, and what they have does not."""
    with ArenaPeer(path) as reader:
        owner = ArenaPeer(path)
        owned = owner.publish("camera", SIZE, max_size, keep=keep, mode=mode)
        opened, fds = reader.opened("camera")
        close_all(owned.receive().descriptors)
        clients = Kept(owned, opened, fds)
        clients.memory = os.dup(owned.memory)
        yield clients
        owner.close()
        close_all([clients.memory, clients.arena, clients.ledger_memory])


def give(peer: ArenaPeer, message: m.Message, *fds: int) -> tuple[m.Message, list[int]]:
    """Send a message with descriptors; return the answer."""
    peer.send(pack(message), list(fds))
    return peer.receive()


def refusal(peer: ArenaPeer, message: m.Message, *fds: int) -> str:
    """Return the code of the refusal that a message with descriptors gets."""
    reply, answered = give(peer, message, *fds)
    close_all(answered)
    assert isinstance(reply, m.Refused), reply
    return reply.code


class Control(Owned):
    """The control socket that an owner gets back."""

    def __init__(self, control: int) -> None:
        super().__init__(m.ArenaMade(0, 0, 0, 0, 0, 0, 0), -1, control)

    def notes(self) -> list[Note]:
        """Return what is there by now, and close its descriptors."""
        notes = []
        while select.select([self.control], [], [], 0)[0]:
            notes.append(self.receive())
            close_all(notes[-1].descriptors)
        return notes

    def until(self, kind: int) -> list[Note]:
        """Return the messages up to the first of a kind."""
        notes: list[Note] = []
        while not notes or notes[-1].kind != kind:
            notes.append(self.receive())
            close_all(notes[-1].descriptors)
        return notes


def own(peer: ArenaPeer, clients: Kept, *, back: bool = True) -> Control:
    """Hand an arena back as its owner."""
    reply, fds = give(peer, m.RestoreArena(5, clients.region), clients.memory)
    assert reply == m.ArenaRestored(5, True), reply
    control = Control(fds[0])
    if back:
        control.send(ARENA_BACK)
    return control


def read(peer: ArenaPeer, clients: Kept) -> None:
    """Hand a ledger back."""
    reply, fds = give(peer, m.RestoreLedger(6, clients.ledger, False), clients.ledger_memory)
    assert (reply, fds) == (m.LedgerRestored(6, False), [])


def descriptors_of(machine: Machine) -> int:
    """Count the descriptors of a host."""
    assert machine.child is not None
    return len(os.listdir(f"/proc/{machine.child.pid}/fd"))


def is_open(path: str) -> bool:
    """Whether a new client may join."""
    with ArenaPeer(path) as peer:
        reply, fds = peer.ask(OPEN)
        close_all(fds)
        return isinstance(reply, m.Opened)
