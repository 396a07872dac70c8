"""An owner and readers that do anything in any order: no ledger is unknown, and the host keeps nothing."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable

import pytest

from arena_support import MESSAGE, SIZE, ArenaPeer, Board, Owned
from shmprotocol.abi.header import FLAG_ARENA
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_FORGET, ARENA_GROW, ARENA_LEDGER, ARENA_READY
from support import WatchedHost, wait_until

NAMES = ("camera", "camera/front", "rack/camera", "rack")
SIZES = (0, 1, SIZE + 1, 3 * SIZE, 5 * SIZE, 2**64 - 1)
GARBAGE = (b"x", bytes(24), MESSAGE.pack(ARENA_FORGET, 0, 1, 0))
SEEDS = range(200 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 8)
STEPS = 300


class Book:
    """What the owner of one arena has heard."""

    def __init__(self, owned: Owned) -> None:
        self.owned = owned
        self.owned.control.setblocking(False)
        self.heard = 0
        self.ledgers: set[int] = set()

    def hear(self) -> None:
        """Take what is in the socket."""
        with contextlib.suppress(BlockingIOError):
            while True:
                note = self.owned.receive()
                descriptors.close_all(note.descriptors)
                if note.kind in (ARENA_LEDGER, ARENA_FORGET):
                    self.heard += 1
                    (self.ledgers.add if note.kind == ARENA_LEDGER else self.ledgers.discard)(note.number)

    def knows(self, board: Board) -> bool:
        """Whether all messages came that the board tells of."""
        self.hear()
        return self.heard == board.line(self.owned.made.line).ledgers


class World:
    """An owner of several arenas, and readers of them."""

    def __init__(self, host: WatchedHost, seed: int) -> None:
        self._host = host
        self._random = random.Random(seed)
        self._board = Board(host.socket_path)
        self._owner = ArenaPeer(host.socket_path)
        self._books: list[Book] = []
        self._readers: dict[int, ArenaPeer] = {}
        self._ledgers: dict[int, int] = {}  # by reader
        self._joined: dict[int, set[int]] = {}  # ledgers of readers that live, by region
        self._steps: tuple[Callable[[], None], ...] = (
            *(
                self.make,
                self.ready,
                self.ready,
                self.grow,
                self.owner_leaves,
                self.unlink,
                self.put,
                self.hear,
            ),
            *[self.open] * 12,  # so that the sockets are full now and then
            *[self.reader_leaves] * 6,
        )

    def step(self) -> None:
        self._random.choice(self._steps)()
        for book in self._books:
            if book.heard == self._board.line(book.owned.made.line).ledgers:
                assert book.ledgers >= self._joined.get(book.owned.made.region, set())

    def make(self) -> None:
        name, keep = self._random.choice(NAMES), self._random.random() < 0.5
        reply, fds = self._owner.ask(m.Arena(2, name, SIZE, 4 * SIZE, 0o600, True, keep))
        if isinstance(reply, m.ArenaMade):
            self._books.append(Book(Owned(reply, *fds)))
        else:
            assert isinstance(reply, m.Refused)
            assert reply.code in ("busy", "exists")

    def ready(self) -> None:
        for book in self._some_books():
            book.owned.send(ARENA_READY)

    def grow(self) -> None:
        for book in self._some_books():
            size, memory = self._random.choice(SIZES), book.owned.memory
            if os.fstat(memory).st_size < size < 2**63 and self._random.random() < 0.2:
                os.ftruncate(memory, size)
            else:
                book.owned.send(ARENA_GROW, size)

    def open(self) -> None:
        which = self._random.randrange(6)
        if which not in self._readers:
            self._readers[which] = ArenaPeer(self._host.socket_path)
        reply, fds = self._readers[which].ask(m.Open(3, (self._random.choice(NAMES),), (), False))
        descriptors.close_all(fds)
        if not isinstance(reply, m.Opened):
            return
        if reply.ledger[1]:
            assert which not in self._ledgers
            self._ledgers[which] = reply.ledger[0]
        if reply.grants[0].flags & FLAG_ARENA:
            self._joined.setdefault(reply.grants[0].region, set()).add(self._ledgers[which])

    def owner_leaves(self) -> None:
        for book in self._some_books():
            if self._random.random() < 0.5:
                with contextlib.suppress(BrokenPipeError):
                    book.owned.control.send(self._random.choice(GARBAGE))
            book.owned.close()
            self._books.remove(book)

    def reader_leaves(self) -> None:
        if self._readers:
            which = self._random.choice(sorted(self._readers))
            self._readers.pop(which).close()
            for joined in self._joined.values():
                joined.discard(self._ledgers.get(which, 0))
            self._ledgers.pop(which, None)

    def unlink(self) -> None:
        self._owner.ask(m.Unlink(5, self._random.choice(NAMES)))

    def put(self) -> None:
        self._owner.put(self._random.choice(NAMES))

    def hear(self) -> None:
        for book in self._some_books():
            book.hear()

    def end(self) -> None:
        """See what the owner knows of those who are still there."""
        wait_until(lambda: self._host.counts()["ledgers"] == len(self._ledgers))
        for book in self._books:
            wait_until(lambda book=book: book.knows(self._board))  # type: ignore[misc]
            assert book.ledgers == self._joined.get(book.owned.made.region, set())

    def close(self) -> None:
        for peer in (self._owner, *self._readers.values()):
            peer.close()
        for book in self._books:
            book.owned.close()
        self._board.close()

    def _some_books(self) -> list[Book]:
        return [self._random.choice(self._books)] if self._books else []


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("seed", SEEDS)
def test_owner_knows_every_ledger_whatever_happens(host: WatchedHost, seed: int) -> None:
    with contextlib.closing(World(host, seed)) as world:
        for _ in range(STEPS):
            world.step()
        world.end()
