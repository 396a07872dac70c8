"""How a reader sleeps until the next value, and how the owner knows that it must wake somebody.

As in shm_arena_wait.h and shm_owner_wake(). The reader writes a mark into its ledger, and looks at the word
of the entry again before it sleeps. The owner exchanges the word, and looks at the marks before it goes on.
All of that is seq, so one of them sees the other. A thread sleeps in a futex; an event loop in a read of an
eventfd, which compares nothing. The host counts on the board who may sleep, so that an owner without sleepers
looks at no ledger.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from model.arena import BOARD, INBOX, WORD, receive
from model.explorer import DEAD, Protocol
from model.memory import Word
from model.programs import ACQUIRE, RELAXED, RELEASE, SEQ, Await, Fence, FutexWait, Load, Post, Store

Run = Generator[Any, Any, Any]
WAITERS = "waiters"


@dataclass(frozen=True)
class Sleep:
    """Sizes of a run, and each part of the protocol that a test can take out."""

    readers: int = 1  # the owner knows their ledgers from the start
    joins: int = 0  # they ask the host first
    puts: int = 2
    kills: bool = False  # a reader may be killed
    by_futex: bool = False  # else by eventfd
    # The reader
    reader_fence: bool = False  # in place of seq
    mark: str = SEQ
    looks_again: bool = True  # at the word, between the mark and the sleep
    look: str = SEQ
    # The owner
    owner_fence: bool = False  # in place of seq
    flip: str = SEQ
    looks_for_marks: str = SEQ
    compares_board: bool = True
    catches_up: bool = True  # waits for messages that are late
    # The host
    raises: str = SEQ
    attends: str = SEQ
    joining: tuple[str, ...] = ("tell", "raise", "attend", "grant")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"reader {number + 1}" for number in range(self.readers + self.joins))

    def with_fences(self) -> Sleep:
        """The same protocol with a fence on each side, where seq is more than release and acquire."""
        fences = replace(self, reader_fence=True, owner_fence=True, mark=RELAXED, look=RELAXED)
        return replace(fences, flip=RELEASE, raises=RELEASE, attends=RELEASE, looks_for_marks=ACQUIRE)


def owner(s: Sleep) -> Run:
    heard = s.names[: s.readers]
    for value in range(1, s.puts + 1):
        yield Store(WORD, value, s.flip)
        if s.owner_fence:
            yield Fence()
        waiters = yield Load(WAITERS, s.looks_for_marks)
        if waiters:
            heard = yield from wake(s, heard)


def wake(s: Sleep, heard: tuple[str, ...]) -> Run:
    """Wake those who sleep, after the messages about their ledgers came."""
    if s.compares_board:
        count = yield Load(BOARD, s.looks_for_marks)
        heard = yield from receive(heard, count)
        while s.catches_up and len(heard) < count:
            heard = yield Await(INBOX, unlike=heard)
    for name in heard:
        mark = yield Load(f"mark of {name}", s.looks_for_marks)
        if mark:
            yield Post(f"{name} sleeps", False) if s.by_futex else Post(f"eventfd of {name}", 1)
    return heard


def reader(s: Sleep, me: str) -> Run:
    """Wait for each newer value, until the last is there."""
    if me in s.names[s.readers :]:
        yield Await(f"grant to {me}")
    seen = yield Load(WORD, ACQUIRE)
    while seen != s.puts:
        yield from sleep(s, me, seen)
        seen = yield Load(WORD, ACQUIRE)


def sleep(s: Sleep, me: str, seen: int) -> Run:
    yield Store(f"mark of {me}", True, s.mark)
    if s.reader_fence:
        yield Fence()
    now = (yield Load(WORD, s.look)) if s.looks_again else seen
    if now == seen and s.by_futex:
        asleep = yield FutexWait(WORD, seen, f"{me} sleeps")
        if asleep:
            yield Await(f"{me} sleeps", unlike=True)
    elif now == seen:
        yield Await(f"eventfd of {me}", unlike=0, leave=0)
    yield Store(f"mark of {me}", False)


def host(s: Sleep) -> Run:
    messages, board = s.names[: s.readers], s.readers
    for name in s.names[s.readers :]:
        messages, board = (*messages, name), board + 1
        for step in s.joining:
            if step == "tell":
                yield Post(INBOX, messages)
            elif step == "raise":
                yield Store(BOARD, board, s.raises)
            elif step == "attend":
                yield Store(WAITERS, board, s.attends)
            else:
                yield Post(f"grant to {name}", True)


def protocol(s: Sleep) -> Protocol:
    """Return the processes, with the value 0 in the entry."""
    mine = frozenset(["owner"])
    words = {
        WORD: Word(0, "owner", frozenset(s.names)),
        BOARD: Word(s.readers, "host", mine),
        WAITERS: Word(s.readers, "host", mine),
        INBOX: Word(s.names[: s.readers], is_message=True),
        DEAD: Word((), is_message=True),
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
