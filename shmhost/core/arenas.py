"""Arenas: what the host knows of one beside its region, and the words that it has on the board. Pure.

An arena is written by its owner, a client that holds the other end of its control socket, and read by clients
that each have a ledger. The host tells the owner of every ledger that can have holds of its values, and of
those that have gone. `ledgers` on the board counts these messages: as long as the owner has received fewer,
it uses no memory again. See `shm_board.h` for the order in which all is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from shmhost.core.board import Board
from shmhost.core.processes import NOBODY, Process
from shmprotocol.abi.header import HEADER_SIZE, page_up
from shmprotocol.errors import InvalidArgument
from shmprotocol.wire.messages import Arena as ArenaRequest

if TYPE_CHECKING:
    from shmhost.core.ledgers import Ledger
    from shmhost.core.owning import Ownership

ARENA_FILES = 3  # descriptors that the host has of an arena: two of the object, and its control socket
SIZE_MIN = 2 * HEADER_SIZE  # the header page and the control page


class Control(Protocol):
    """The host's end of an arena's control socket. Never waits: what does not fit is queued, in its order."""

    def answer(self, kind: int, code: int, size: int) -> None:
        """Answer a message of the owner's; `code` is a positive errno, or 0."""

    def tell_ledger(self, ledger: Ledger) -> None:
        """Tell the owner of a ledger, and of the pid of its client, and give it the descriptors."""

    def has_unsent(self, number: int) -> bool:
        """Whether a message about a ledger waits: its descriptors will be those of the ledger by then."""

    def tell_board(self, board: Board, line: int) -> None:
        """Tell the owner where its line is, and give it a descriptor of the board."""

    def tell_forget(self, number: int) -> None:
        """Tell the owner that a ledger has gone."""

    def tell_start(self, board: Board, line: int, count: int) -> None:
        """Tell an owner from before where its line is, which counts so many messages; OSError: not now."""

    def tell_kept(self, number: int) -> None:
        """Tell an owner from before of a ledger that it has, or will get when that is here."""

    def tell_rest(self) -> None:
        """Tell an owner from before that all ledgers which it has and was not told of have gone."""

    def take_back(self, number: int) -> bool:
        """Drop the message about a new ledger, if it was not sent; False if it was."""

    def close(self) -> None:
        """End the conversation; the arena's owner has ended then, at once or after its work in a thread."""


@dataclass(eq=False, slots=True)
class Arena:
    """The state of an arena, beside that of its region. Sizes are bytes of the whole object."""

    span: int  # that clients map: its size can grow so far
    keep: bool  # when its owner has gone
    line: int
    size: int
    board: Board
    generation: int = 0  # which it has when it is published
    control: Control | None = None  # None: its owner has gone
    ledgers: set[Ledger] = field(default_factory=set)  # of the clients that have joined
    attending: set[Ledger] = field(default_factory=set)  # those of them that may sleep
    messages: int = 0  # to the owner: sent, or queued
    has_owner: bool = False  # with another host, until its control socket is here
    # Of one that is back from a host that was killed: an owner that lives may look at the board of that host,
    # and would use again what a new client holds. Nobody joins before it has said that it looks here, or has
    # ended.
    is_open: bool = True
    awaited: set[int] = field(default_factory=set)  # numbers of ledgers that have joined, and are not back
    process: Process = NOBODY  # its owner's
    owner_lease: int = 0  # of an owner that may have it mapped, and is not connected
    is_awaited: bool = False  # it had such a lease with another host
    ownership: Ownership | None = None  # who has the control socket

    def begin(self, control: Control) -> None:
        """Note the owner, and write the words as they are before anybody knows the line."""
        self.control = control
        self._write()

    def resume(self, control: Control) -> None:
        """Note the control socket of an owner from before, and tell it which ledgers there are.

        OSError: not now. Nothing that it heard from a host before counts any more, so the word jumps by all
        that it is told.
        """
        control.tell_start(self.board, self.line, self.messages)  # nobody can read it yet
        self.messages += len(self.awaited) + len(self.ledgers) + 1
        self._write()
        self.control = control
        for number in self.awaited:
            control.tell_kept(number)
        for ledger in self.ledgers:
            control.tell_ledger(ledger)
        control.tell_rest()

    def restore(self, ledger: Ledger) -> None:
        """Take note that a ledger is back which had joined; its client may sleep already."""
        self.awaited.discard(ledger.number)
        self.ledgers.add(ledger)
        ledger.arenas.add(self)
        self.attending.add(ledger)
        self.tell_again(ledger)

    def tell_again(self, ledger: Ledger) -> None:
        """Tell the owner of a ledger that it may know: its event may be another one."""
        if self.control is not None:
            if self.control.has_unsent(ledger.number):  # however often a client asks, one message waits
                return
            self.control.tell_ledger(ledger)
        self.messages += 1
        self._write()

    def give_up(self, number: int) -> None:
        """Take note that the process of a ledger which is not back has ended."""
        if number in self.awaited:
            self.awaited.discard(number)
            if self.control is not None:
                self.control.tell_forget(number)
            self.messages += 1
            self._write()

    def join(self, ledger: Ledger, note: Callable[[], None] = lambda: None) -> None:
        """Let a client hold values, before it gets its grant. No effect if it may already.

        `note` is called between the message and the word: what a successor knows of, the owner was told of.
        """
        if ledger in self.ledgers:
            return
        self.ledgers.add(ledger)
        ledger.arenas.add(self)
        if self.control is not None:
            self.control.tell_ledger(ledger)
        note()
        # Also if the owner has gone: should it still write, it learns that it does not hear of all readers.
        self.messages += 1
        self._write()

    def leave(self, ledger: Ledger) -> None:
        """Take note that a client which has joined is gone: its holds are void."""
        self.ledgers.discard(ledger)
        self.attending.discard(ledger)
        ledger.arenas.discard(self)
        # Of one that was handed back, the owner may have heard before: then nothing can be taken back.
        if self.control is not None and (ledger.outlives or not self.control.take_back(ledger.number)):
            self.control.tell_forget(ledger.number)
            self.messages += 1
        elif self.control is not None:
            self.messages -= 1
        self._write()

    def attend(self, ledger: Ledger) -> None:
        """Take note that a client may sleep until a value changes."""
        self.attending.add(ledger)
        self._write()

    def grow(self, size: int) -> None:
        """Say how many bytes the object has now."""
        self.size = size
        self._write()

    def end(self) -> None:
        """Forget who has joined: nobody has it mapped any more, and the line will be another's."""
        for ledger in self.ledgers:
            ledger.arenas.discard(self)
        self.ledgers.clear()
        self.attending.clear()
        self.awaited.clear()

    def move(self, board: Board, line: int) -> None:
        """Write the words on another board, which has this line."""
        self.board, self.line = board, line
        self._write()

    def _write(self) -> None:
        waiters = len(self.attending) + len(self.awaited)
        self.board.set_arena(self.line, self.messages, waiters, self.size)


def sizes_of(request: ArenaRequest) -> tuple[int, int]:
    """Return the bytes of an object, and those of its span, that a request asks for; InvalidArgument."""
    size, span = page_up(request.size), page_up(request.max_size or request.size)
    if size < SIZE_MIN:
        raise InvalidArgument(f"an arena has at least {SIZE_MIN} bytes, not {request.size}")
    if span < size:
        raise InvalidArgument(f"max_size {request.max_size} is less than the size, {request.size}")
    return size, span
