"""The arena protocol at the grain of single loads and stores: put, get, let go, recycle, join, death.

As in shm_arena.h: publish, shm_arena_try(), shm_hold_release(), shm_owner_knows(), shm_collect(), and the
host's side of protocol/README.md. One entry is enough, because names share nothing but the heap. The owner
puts the values 2, 3, ... where 1 stands; a block holds some words, all equal to the value; a record says
which block, and which value is in it. Each reader has one hold. Messages about ledgers come to the owner in
the order in which they are sent; the board says how many there are.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from model.explorer import DEAD, Protocol
from model.memory import Word
from model.programs import (
    ACQUIRE,
    RELAXED,
    RELEASE,
    SEQ,
    Await,
    Broken,
    Choose,
    Fence,
    Load,
    Post,
    Quiet,
    Store,
)

Run = Generator[Any, Any, Any]
WORD, BOARD, INBOX = "word of the entry", "board", "messages to the owner"
NEXT, MOVED = (
    "next board",
    ("board", "next"),
)  # of the host that takes the place of the first; and how it says so
MANY = 100  # more than there are messages
# After a kill: the messages on the next control socket, of which the first says that it is one; the word in
# the owner's memory by which it finds that socket; and what the next host is told.
NEXT_INBOX, FIRST, OFFER, BACK = "messages of the next host", ("socket", "next"), "offer", "back"
HOLDS = ("hold", "other hold")


@dataclass(frozen=True)
class Arena:
    """Sizes of a run, and each part of the protocol that a test can take out."""

    readers: int = 1  # the owner knows their ledgers from the start
    joins: int = 0  # they ask the host first
    blocks: int = 3
    puts: int = 3
    gets: int = 1
    words: int = 1  # of a block
    removes_at: int = 0  # before this value the owner removes the name
    kills: str = ""  # who may be killed: "readers", "owner"
    stops: bool = False  # a reader may stop for ever
    audits: bool = True  # in the end, all blocks are free again that nobody holds
    # The reader
    reader_fence: bool = False  # between hold and second look: in place of seq
    second_look: bool = True
    first_load: str = ACQUIRE
    high: str = SEQ
    hold: str = SEQ
    second_load: str = SEQ
    let_go: str = RELEASE
    moves_hold: bool = False  # a reader copies its hold into another word, and clears the first
    hangs_up: bool = False  # a reader closes its connection while it holds a value
    # The owner
    owner_fence: bool = False  # before it collects: in place of seq
    compares_board: bool = True
    collects: str = SEQ  # each load
    fill: str = RELEASE
    flip: str = SEQ
    generation_in_word: bool = True
    generation_goes_on: bool = True  # where a name was removed
    # The host, in the order of its steps
    raises: str = SEQ
    joining: tuple[str, ...] = ("tell", "raise", "grant")
    parting: tuple[str, ...] = ("tell", "raise")
    takeover: int = -1  # so many have joined when another host takes the place of the first; -1: none does
    mark: str = (
        SEQ  # how the first host says on its board that it has moved, as its last act; "": it does not
    )
    killed: int = -1  # so many have joined when the host is killed, and the next one begins; -1: it is not
    loses: bool = False  # the messages about those do not come any more
    looks: bool = True  # at the offer, before it looks at the board
    offer: str = SEQ
    tells_again: bool = True  # of those who had joined
    waits_for_back: bool = True  # before others join
    takes_back: bool = False  # the first who joins is gone before the owner's socket has room for the message

    @property
    def names(self) -> tuple[str, ...]:
        """All readers; those who join come last."""
        return tuple(f"reader {number + 1}" for number in range(self.readers + self.joins))

    @property
    def joiners(self) -> tuple[str, ...]:
        return self.names[self.readers :]

    def holds(self, name: str) -> tuple[str, ...]:
        """The holds in a ledger, in the order in which the owner loads them."""
        return tuple(f"{hold} of {name}" for hold in HOLDS[: 1 + self.moves_hold])

    def ledgers(self, messages: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
        """Whose ledgers the owner knows after these messages."""
        names = [*self.names[: self.readers]]
        for kind, name in messages:
            if kind == "ledger":
                names.append(name)
            elif kind == "forget":
                names.remove(name)
        return tuple(names)

    def with_fences(self) -> Arena:
        """The same protocol with a fence on each side, where seq is more than release and acquire."""
        fences = replace(self, reader_fence=True, owner_fence=True, high=RELAXED, second_load=RELAXED)
        return replace(fences, hold=RELEASE, flip=RELEASE, raises=RELEASE, collects=ACQUIRE)

    def word(self, generation: int, record: int) -> tuple[int, int]:
        return (generation if self.generation_in_word else 0, record)


def owner(a: Arena) -> Run:
    block, free, retired = 0, tuple(range(1, a.blocks)), ()
    heard, record, before = (), 0, 0
    for value in range(2, a.puts + 2):
        if value == a.removes_at:
            yield Store(WORD, None, a.flip)
            retired, block = (*retired, block), None
            before = before if a.generation_goes_on else value - 1
        if not free:
            heard, free, retired = yield from collect(a, heard, retired)
            if not free:
                _check_room(a)
                continue  # ArenaFull
        fresh = (yield Choose(free)) if len(free) > 1 else free[0]
        record = 1 - record
        yield from publish(a, fresh, record, value - before, value)
        free = tuple(other for other in free if other != fresh)
        retired = retired if block is None else (*retired, block)
        block = fresh
    if a.audits:
        yield from audit(a, heard, retired)


def publish(a: Arena, block: int, record: int, generation: int, value: int) -> Run:
    for index in range(a.words):
        yield Store(_content(block, index), value)
    yield Store(f"record {record}: block", block, a.fill)
    yield Store(f"record {record}: value", value, a.fill)
    yield Store(WORD, a.word(generation, record), a.flip)


def collect(a: Arena, heard: tuple[Any, ...], retired: tuple[int, ...]) -> Run:
    """Return the messages that were received by now, and which blocks are free and which are not."""
    if a.owner_fence:
        yield Fence()
    if a.killed >= 0 and a.looks and FIRST not in heard:
        offered = yield Load(OFFER, a.collects)
        if offered:
            heard = yield Await(NEXT_INBOX)
    if a.compares_board:
        board = _board(heard)
        count = yield Load(board, a.collects)
        heard = yield from receive(heard, count)
        if _board(heard) != board:
            count = yield Load(NEXT, a.collects)
            heard = yield from receive(heard, count)
        if _count(heard) < count:
            return heard, (), retired
    held: frozenset[int] = frozenset()
    for name in a.ledgers(heard):
        high = yield Load(f"high of {name}", a.collects)
        for hold in a.holds(name)[:high]:
            block = yield Load(hold, a.collects)
            held |= {block}
    free = tuple(block for block in retired if block not in held)
    return heard, free, tuple(block for block in retired if block in held)


def receive(heard: tuple[Any, ...], count: int) -> Run:
    """Return the messages that were received: now all, if the board says another number."""
    if _count(heard) != count:
        heard = yield Await(_inbox(heard))
    return heard


def _inbox(messages: tuple[Any, ...]) -> str:
    return NEXT_INBOX if FIRST in messages else INBOX


def _board(heard: tuple[Any, ...]) -> str:
    """Return the board that the owner looks at after these messages."""
    return NEXT if MOVED in heard or FIRST in heard else BOARD


def _count(heard: tuple[Any, ...]) -> int:
    """Return how many messages are about ledgers."""
    return len(heard) - (MOVED in heard) - (FIRST in heard)


def audit(a: Arena, heard: tuple[Any, ...], retired: tuple[int, ...]) -> Run:
    stopped = yield Quiet()
    _, _, left = yield from collect(a, heard, retired)
    if len(left) > stopped:
        raise Broken(f"{len(left)} blocks stay in use, and {stopped} readers live that may hold one")


def _check_room(a: Arena) -> None:
    """A block is current, each hold may name another, so one more is free, unless a message is late."""
    is_prompt = (
        a.joining[0] == a.parting[0] == "tell" and not a.takes_back and a.takeover < 0 and a.killed < 0
    )
    if is_prompt and a.blocks >= 2 + len(a.names) and a.removes_at == 0:
        raise Broken("the arena is full")


def reader(a: Arena, me: str) -> Run:
    if me in a.joiners:
        yield Await(f"grant to {me}")
    newest = 0
    for _ in range(a.gets):
        generation, value, holding = yield from get(a, me)
        newest = _check_generation(a, me, newest, generation, value)
        if a.hangs_up:
            yield Post(DEAD, (me,))
        if a.moves_hold:
            yield Store(f"hold of {me}", holding, SEQ)
            yield Store(f"other hold of {me}", None, RELEASE)
        for index in range(a.words if holding is not None else 0):
            content = yield Load(_content(holding, index))
            if content != value:
                raise Broken(f"{me} reads {content} in block {holding}, where its record says {value}")
        holding = None
        yield Store(f"hold of {me}", None, a.let_go)


def _check_generation(a: Arena, me: str, newest: int, generation: int, value: int) -> int:
    if generation == 0:  # the name is removed
        return newest
    if generation < newest:
        raise Broken(f"{me} got generation {newest} and then {generation}")
    if a.generation_in_word and a.generation_goes_on and value != generation:
        raise Broken(f"{me} got the value {value} as that of generation {generation}")
    return generation


def get(a: Arena, me: str) -> Run:
    """Return a generation, the value that is in it, and the block that is held from now on."""
    while True:
        seen = yield Load(WORD, a.first_load)
        if seen is None:
            return 0, 0, None
        record = seen[1]
        block = yield Load(f"record {record}: block", ACQUIRE)
        value = yield Load(f"record {record}: value", ACQUIRE)
        yield from hold(a, me, block)
        again = (yield Load(WORD, a.second_load)) if a.second_look else seen
        if again == seen:
            return seen[0], value, block


def hold(a: Arena, me: str, block: int) -> Run:
    yield Store(f"high of {me}", len(HOLDS), a.high)
    yield Store(f"{HOLDS[a.moves_hold]} of {me}", block, a.hold)
    if a.reader_fence:
        yield Fence()


def host(a: Arena) -> Run:
    """Serve: who joins, then the first who is gone. Messages go out at any time."""
    messages, board = (), 0
    for number, name in enumerate(a.joiners):
        if number == a.takeover:
            messages = yield from hand_over(a, messages, board)
        if number == a.killed:
            messages = yield from begin_anew(a, messages)
            board = _count(messages)
        if a.takes_back and name == a.joiners[0]:
            board = yield from come_and_go(a, board, name)
            continue
        messages = (*messages, ("ledger", name))
        is_lost = a.loses and number < a.killed
        steps = tuple(step for step in a.joining if step != "tell") if is_lost else a.joining
        board = yield from change(a, steps, messages, board, name)
    if len(a.joiners) == a.takeover:
        messages = yield from hand_over(a, messages, board)
    if len(a.joiners) == a.killed:
        messages = yield from begin_anew(a, messages)
        board = _count(messages)
    gone = yield Await(DEAD, ())
    if not a.takes_back:
        yield from change(a, a.parting, (*messages, ("forget", gone[0])), board, "")


def hand_over(a: Arena, messages: tuple[Any, ...], board: int) -> Run:
    """Be another host from now on, with another board; return the messages that the owner hears of it."""
    if a.mark:
        yield Store(BOARD, board + MANY, a.mark)
    yield Store(NEXT, board, a.raises)
    messages = (*messages, MOVED)
    yield Post(INBOX, messages)
    return messages


def begin_anew(a: Arena, messages: tuple[Any, ...]) -> Run:
    """Be the host that comes after one that was killed; return the messages that the owner hears of it."""
    news = (FIRST, *messages) if a.tells_again else (FIRST,)
    count = _count(news)
    yield Store(NEXT, count, a.raises)
    yield Post(NEXT_INBOX, news)
    if a.waits_for_back:
        yield Await(BACK, False)
    return news


def keeper(a: Arena) -> Run:
    """Hand the arena back, in the owner's process: let it find the next control socket, and say so."""
    yield Await(NEXT_INBOX, ())
    yield Store(OFFER, True, a.offer)
    yield Post(BACK, True)


def change(a: Arena, steps: tuple[str, ...], messages: tuple[Any, ...], board: int, name: str) -> Run:
    for step in steps:
        if step == "tell":
            yield Post(_inbox(messages), messages)
        elif step == "raise":
            board += 1
            yield Store(_board(messages), board, a.raises)
        else:
            yield Post(f"grant to {name}", True)
    return board


def come_and_go(a: Arena, board: int, name: str) -> Run:
    """A client joins while there is no room for the message, and is gone before there is."""
    raised = yield from change(a, ("raise", "grant"), (), board, name)
    yield Await(DEAD, ())
    yield Store(BOARD, raised - 1, a.raises)
    return raised - 1


def protocol(a: Arena) -> Protocol:
    """Return the processes of an arena, and their memory in which the value 1 stands."""
    readers, mine = frozenset(a.names), frozenset(["owner"])
    return Protocol(
        _words(a, readers, mine),
        {"owner": partial(owner, a)}
        | {name: partial(reader, a, name) for name in a.names}
        | {"host": partial(host, a)}
        | ({"keeper": partial(keeper, a)} if a.killed >= 0 else {}),
        guard=_guard,
        mortal=_mortal(a),
        may_stop=readers if a.stops else frozenset(),
        servants=frozenset(["host", "keeper", *(a.joiners if a.takes_back else ())]),
    )


def _mortal(a: Arena) -> frozenset[str]:
    if a.takes_back:
        return frozenset(a.joiners[:1])
    return frozenset(["owner"] if a.kills == "owner" else a.names if a.kills == "readers" else ())


def _words(a: Arena, readers: frozenset[str], mine: frozenset[str]) -> dict[str, Word]:
    words = {
        WORD: Word(a.word(1, 0), "owner", readers),
        BOARD: Word(0, "host", mine),
        NEXT: Word(0, "host", mine),
        INBOX: Word((), is_message=True),
        DEAD: Word((), is_message=True),
    }
    if a.killed >= 0:
        words |= {OFFER: Word(False, "keeper", mine), NEXT_INBOX: Word((), is_message=True)}
        words |= {BACK: Word(False, is_message=True)}
    for record in range(2):
        for part, start in (("block", 0), ("value", 1)):
            words[f"record {record}: {part}"] = Word(start if record == 0 else None, "owner", readers)
    for block in range(a.blocks):
        for index in range(a.words):
            start = 1 if block == 0 else None
            words[_content(block, index)] = Word(start, "owner", readers, is_plain=True)
    for name in a.names:
        words[f"high of {name}"] = Word(0, name, mine)
        words |= {hold: Word(None, name, mine) for hold in a.holds(name)}
    return words | {f"grant to {name}": Word(None, is_message=True) for name in a.joiners}


def _content(block: int | None, index: int) -> str:
    return f"block {block}, word {index}"


def _guard(at: str, variables: dict[str, dict[str, Any]]) -> str | None:
    """A block that a reader holds is never written."""
    if not at.startswith("block"):
        return None
    block = int(at.split()[1].rstrip(","))
    for name, values in variables.items():
        if values.get("holding") == block:
            return f"block {block} is written while {name} holds it"
    return None
