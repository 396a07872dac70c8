"""The arena protocol at the grain of single loads and stores: put, get, let go, recycle, join, death.

One entry is enough, because names share nothing but the heap. The owner puts the values 2, 3, ... where 1
stands; a block holds some words, all equal to the value; a record says which block, and which value is in it.
Each reader has one hold. The host makes ledgers, tells the owner when it asks, and raises the arena's word on
the board.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

from model.explorer import DEAD, Protocol
from model.memory import Word
from model.programs import ACQUIRE, RELAXED, RELEASE, Await, Broken, Choose, Fence, Load, Post, Quiet, Store

Run = Generator[Any, Any, Any]
WORD = "word of the entry"
HOLDS = ("hold", "other hold")


@dataclass(frozen=True)
class Arena:
    """Sizes of a run, and each part of the protocol that a test can take out."""

    readers: int = 1  # they have their ledgers from the start
    joins: int = 0  # they ask the host for one
    blocks: int = 3
    puts: int = 3
    gets: int = 1
    words: int = 1  # of a block
    removes_at: int = 0  # before this value the owner removes the name
    kills: str = ""  # who may be killed: "readers", "owner"
    stops: bool = False  # a reader may stop for ever
    audits: bool = True  # in the end, all blocks are free again that nobody holds
    # The reader
    reader_fence: bool = True
    second_check: bool = True
    first_load: str = ACQUIRE
    hold: str = RELEASE
    second_load: str = RELAXED
    let_go: str = RELEASE
    moves_hold: bool = False  # a reader copies its hold into another word, and clears the first
    hangs_up: bool = False  # a reader closes its connection while it holds a value
    # The owner
    owner_fence: bool = True
    compares_board: bool = True
    scan: str = ACQUIRE
    fill: str = RELEASE
    flip: str = RELEASE
    generation_in_word: bool = True
    generation_goes_on: bool = True  # where a name was removed
    # The host, in the order of its steps
    joining: tuple[str, ...] = ("list", "raise", "grant")
    parting: tuple[str, ...] = ("list", "raise")

    @property
    def names(self) -> tuple[str, ...]:
        """All readers; those who join come last."""
        return tuple(f"reader {number + 1}" for number in range(self.readers + self.joins))

    @property
    def joiners(self) -> tuple[str, ...]:
        return self.names[self.readers :]

    def holds(self, names: tuple[str, ...]) -> list[str]:
        """The words that the owner reads, in their order."""
        return [f"{hold} of {name}" for name in names for hold in HOLDS[: 1 + self.moves_hold]]

    def word(self, generation: int, record: int) -> tuple[int, int]:
        return (generation if self.generation_in_word else 0, record)


def owner(a: Arena) -> Run:
    block, free, retired = 0, tuple(range(1, a.blocks)), ()
    board, ledgers, record, before = 0, a.names[: a.readers], 0, 0
    for value in range(2, a.puts + 2):
        if value == a.removes_at:
            yield Store(WORD, None, RELEASE)
            retired, block = (*retired, block), None
            before = before if a.generation_goes_on else value - 1
        if not free:
            board, ledgers, free, retired = yield from recycle(a, board, ledgers, retired)
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
        yield from audit(a, board, ledgers, retired)


def publish(a: Arena, block: int, record: int, generation: int, value: int) -> Run:
    for index in range(a.words):
        yield Store(_content(block, index), value)
    yield Store(f"record {record}: block", block, a.fill)
    yield Store(f"record {record}: value", value, a.fill)
    yield Store(WORD, a.word(generation, record), a.flip)


def recycle(a: Arena, board: int, ledgers: tuple[str, ...], retired: tuple[int, ...]) -> Run:
    """Return what is known of the board and the ledgers now, and which blocks are free and which are not."""
    if a.owner_fence:
        yield Fence()
    if a.compares_board:
        raised = yield Load("board", ACQUIRE)
        if raised != board:
            board = raised  # not what the board says after the answer: it may be raised in between
            ledgers = yield Await("ledgers")
    held: frozenset[int] = frozenset()
    for hold in a.holds(ledgers):
        block = yield Load(hold, a.scan)
        held |= {block}
    free = tuple(block for block in retired if block not in held)
    return board, ledgers, free, tuple(block for block in retired if block in held)


def audit(a: Arena, board: int, ledgers: tuple[str, ...], retired: tuple[int, ...]) -> Run:
    stopped = yield Quiet()
    _, _, _, left = yield from recycle(a, board, ledgers, retired)
    if len(left) > stopped:
        raise Broken(f"{len(left)} blocks stay in use, and {stopped} readers live that may hold one")


def _check_room(a: Arena) -> None:
    """A block is current, each hold may name another, so one more is always free."""
    if a.blocks >= 2 + len(a.names) and a.removes_at == 0:
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
            yield Store(f"hold of {me}", holding, RELEASE)
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
        block = yield Load(f"record {record}: block")
        value = yield Load(f"record {record}: value")
        yield Store(f"{HOLDS[a.moves_hold]} of {me}", block, a.hold)
        if a.reader_fence:
            yield Fence()
        again = (yield Load(WORD, a.second_load)) if a.second_check else seen
        if again == seen:
            return seen[0], value, block


def host(a: Arena) -> Run:
    """Serve: who joins, then the first who is gone. Meanwhile the owner may ask at any time."""
    ledgers, board = a.names[: a.readers], 0
    for name in a.joiners:
        ledgers = (*ledgers, name)
        board = yield from change(a.joining, ledgers, board, name)
    gone = yield Await(DEAD, ())
    ledgers = tuple(name for name in ledgers if name not in gone)
    yield from change(a.parting, ledgers, board, "")


def change(steps: tuple[str, ...], ledgers: tuple[str, ...], board: int, name: str) -> Run:
    for step in steps:
        if step == "list":
            yield Post("ledgers", ledgers)
        elif step == "raise":
            board += 1
            yield Store("board", board, RELEASE)
        else:
            yield Post(f"grant to {name}", True)
    return board


def protocol(a: Arena) -> Protocol:
    """Return the processes of an arena, and their memory in which the value 1 stands."""
    readers, mine = frozenset(a.names), frozenset(["owner"])
    words = {
        WORD: Word(a.word(1, 0), "owner", readers),
        "board": Word(0, "host", mine),
        "ledgers": Word(a.names[: a.readers], is_message=True),
        DEAD: Word((), is_message=True),
    }
    for record in range(2):
        for part, start in (("block", 0), ("value", 1)):
            words[f"record {record}: {part}"] = Word(start if record == 0 else None, "owner", readers)
    for block in range(a.blocks):
        for index in range(a.words):
            start = 1 if block == 0 else None
            words[_content(block, index)] = Word(start, "owner", readers, is_plain=True)
    for name in a.names:
        words |= {hold: Word(None, name, mine) for hold in a.holds((name,))}
    words |= {f"grant to {name}": Word(None, is_message=True) for name in a.joiners}
    return Protocol(
        words,
        {"owner": partial(owner, a)}
        | {name: partial(reader, a, name) for name in a.names}
        | {"host": partial(host, a)},
        guard=_guard,
        mortal=mine if a.kills == "owner" else readers if a.kills == "readers" else frozenset(),
        may_stop=readers if a.stops else frozenset(),
        servants=frozenset(["host"]),
    )


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
