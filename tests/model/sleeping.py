"""How a reader sleeps until the next value, and how the owner knows that it must wake somebody.

The reader writes a mark into its ledger, and looks at the word of the entry again before it sleeps. The owner
stores the word, and looks at the marks before it goes on. Between its store and its load each has a full
fence, so one of them sees the other. A thread sleeps in a futex; an event loop in a read of an eventfd, which
compares nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

from model.explorer import Protocol
from model.memory import Word
from model.programs import ACQUIRE, RELEASE, Await, Fence, FutexWait, Load, Post, Store

Run = Generator[Any, Any, Any]
WORD = "word of the entry"


@dataclass(frozen=True)
class Sleep:
    """Sizes of a run, and each part of the protocol that a test can take out."""

    readers: int = 1  # they have their ledgers from the start
    joins: int = 0  # they ask the host for one
    puts: int = 2
    kills: bool = False  # a reader may be killed
    by_futex: bool = False  # else by eventfd
    reader_fence: bool = True
    owner_fence: bool = True
    compares_board: bool = True
    looks_again: bool = True  # at the word, between the mark and the sleep
    joining: tuple[str, ...] = ("list", "raise", "grant")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"reader {number + 1}" for number in range(self.readers + self.joins))


def owner(s: Sleep) -> Run:
    board, ledgers = 0, s.names[: s.readers]
    for value in range(1, s.puts + 1):
        yield Store(WORD, value, RELEASE)
        if s.owner_fence:
            yield Fence()
        board, ledgers = yield from wake(s, board, ledgers)


def wake(s: Sleep, board: int, ledgers: tuple[str, ...]) -> Run:
    if s.compares_board:
        raised = yield Load("board", ACQUIRE)
        if raised != board:
            board, ledgers = raised, (yield Await("ledgers"))
    for name in ledgers:
        mark = yield Load(f"mark of {name}")
        if mark:
            yield Post(f"{name} sleeps", False) if s.by_futex else Post(f"eventfd of {name}", 1)
    return board, ledgers


def reader(s: Sleep, me: str) -> Run:
    """Wait for each newer value, until the last is there."""
    if me in s.names[s.readers :]:
        yield Await(f"grant to {me}")
    seen = yield Load(WORD, ACQUIRE)
    while seen != s.puts:
        yield from sleep(s, me, seen)
        seen = yield Load(WORD, ACQUIRE)


def sleep(s: Sleep, me: str, seen: int) -> Run:
    yield Store(f"mark of {me}", True)
    if s.reader_fence:
        yield Fence()
    now = (yield Load(WORD, ACQUIRE)) if s.looks_again else seen
    if now == seen and s.by_futex:
        asleep = yield FutexWait(WORD, seen, f"{me} sleeps")
        if asleep:
            yield Await(f"{me} sleeps", unlike=True)
    elif now == seen:
        yield Await(f"eventfd of {me}", unlike=0, leave=0)
    yield Store(f"mark of {me}", False)


def host(s: Sleep) -> Run:
    ledgers, board = s.names[: s.readers], 0
    for name in s.names[s.readers :]:
        ledgers = (*ledgers, name)
        for step in s.joining:
            if step == "list":
                yield Post("ledgers", ledgers)
            elif step == "raise":
                board += 1
                yield Store("board", board, RELEASE)
            else:
                yield Post(f"grant to {name}", True)


def protocol(s: Sleep) -> Protocol:
    """Return the processes, with the value 0 in the entry."""
    mine = frozenset(["owner"])
    words = {
        WORD: Word(0, "owner", frozenset(s.names)),
        "board": Word(0, "host", mine),
        "ledgers": Word(s.names[: s.readers], is_message=True),
        "dead": Word((), is_message=True),
    }
    for name in s.names:
        words[f"mark of {name}"] = Word(False, name, mine)
        words[f"grant to {name}"] = Word(None, is_message=True)
        words[f"{name} sleeps"] = Word(False, is_message=True)
        words[f"eventfd of {name}"] = Word(0, is_message=True)
    processes = {"owner": partial(owner, s)} | {name: partial(reader, s, name) for name in s.names}
    return Protocol(
        words, processes | {"host": partial(host, s)}, mortal=frozenset(s.names if s.kills else ())
    )
