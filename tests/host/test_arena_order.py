"""The order in which an owner, the board and a reader hear of each other: held values depend on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from session_support import Talk, World
from shmhost.core.board import NoBoard
from shmhost.core.hub import Owner
from shmhost.core.ledgers import Ledger
from shmhost.core.work import Steps
from shmhost.machine.arena_memory import ArenaMemory, LedgerMemory
from shmhost.serving.workers import attempt
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_GROW, ARENA_READY
from support import count_descriptors

ARENA = m.Arena(1, "camera", 1 << 16, 1 << 20, 0o666, True, True)
Record = list[Any]


class WordyBoard(NoBoard):
    """A board that notes what it is told."""

    names = 10

    def __init__(self, record: Record) -> None:
        self._record = record
        self._lines = iter(range(1, 10))

    def assign(self, shared: int) -> int:
        return shared or next(self._lines)

    def set(self, line: int, region: int, generation: int) -> None:
        self._record.append(("current", line, region))

    def set_arena(self, line: int, ledgers: int, waiters: int, size: int) -> None:
        self._record.append(("words", line, ledgers, waiters, size))


class WordyControl:
    """A control socket that notes what it is told. `is_full`: what it is told of ledgers waits."""

    def __init__(self, record: Record, owner: Owner) -> None:
        self._record = record
        self.owner = owner
        self.is_full = False
        self._theirs = os.open(os.devnull, os.O_RDONLY)

    def theirs(self) -> int:
        return self._theirs

    def hand_over(self) -> None:
        os.close(self._theirs)

    def answer(self, kind: int, code: int, size: int) -> None:
        self._record.append(("answer", kind, code, size))

    def tell_ledger(self, ledger: Ledger) -> None:
        self._record.append(("ledger", ledger.number))

    def tell_forget(self, number: int) -> None:
        self._record.append(("forget", number))

    def take_back(self, number: int) -> bool:
        if self.is_full:
            self._record.append(("take back", number))
        return self.is_full

    def close(self) -> None:
        self.owner.ended(is_by_owner=True)

    def say(self, kind: int, size: int = 0) -> None:
        finish(self.owner.handle(kind, size))


def finish(steps: Steps) -> None:
    try:
        work = next(steps)
        while True:
            result, error = attempt(work.call)
            work = steps.send(result) if error is None else steps.throw(error)
    except StopIteration:
        pass


class Scene:
    """A world with an arena, and the record of what its owner, the board and readers were told."""

    def __init__(self) -> None:
        self.record: Record = []
        self.world = World()
        hub = self.world.hub
        hub.make_arena, hub.make_ledger_object = ArenaMemory, LedgerMemory
        hub.make_control = self._make_control
        hub.registry.board = WordyBoard(self.record)
        self.owner = self.client()
        self.made = self.owner.say(ARENA)
        self.control.say(ARENA_READY)

    def _make_control(self, owner: Owner) -> WordyControl:
        self.control = WordyControl(self.record, owner)
        return self.control

    def client(self) -> Talk:
        talk = self.world.client()
        send = talk.send

        def note(message: m.Message, descriptors: Sequence[int]) -> None:
            self.record.append((type(message).__name__, *message[1:2]))
            send(message, descriptors)

        talk.send = note  # type: ignore[method-assign]
        return talk

    def since(self) -> Record:
        record = self.record[:]
        self.record.clear()
        return record

    def close(self) -> None:
        self.owner.session.close()
        self.world.hub.registry.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    before = count_descriptors()
    scene = Scene()
    yield scene
    scene.close()
    assert count_descriptors() == before


def test_words_are_there_before_the_arena_is_current_and_that_before_the_answer(scene: Scene) -> None:
    line, region = scene.made.line, scene.made.region
    assert scene.since() == [
        ("ArenaMade", region),
        ("words", line, 0, 0, 1 << 16),
        ("current", line, region),
        ("answer", ARENA_READY, 0, 1 << 16),
    ]


def test_owner_hears_before_the_word_is_raised_and_that_before_the_grant(scene: Scene) -> None:
    scene.since()
    reader = scene.client()
    opened = reader.say(m.Open(2, ("camera/front",), (), False))
    assert isinstance(opened, m.Opened)
    number = opened.ledger[0]
    record = scene.since()
    assert [entry[0] for entry in record] == ["ledger", "words", "Opened"]
    assert record[:2] == [("ledger", number), ("words", scene.made.line, 1, 0, 1 << 16)]
    reader.session.close()
    assert scene.since() == [("forget", number), ("words", scene.made.line, 2, 0, 1 << 16)]


def test_word_falls_only_after_the_message_was_taken_back(scene: Scene) -> None:
    reader = scene.client()
    number = reader.say(m.Open(2, ("camera",), (), False)).ledger[0]
    scene.since()
    scene.control.is_full = True
    reader.session.close()
    assert scene.since() == [("take back", number), ("words", scene.made.line, 0, 0, 1 << 16)]


def test_client_may_sleep_only_after_the_word_says_so(scene: Scene) -> None:
    reader = scene.client()
    reader.say(m.Open(2, ("camera",), (), False))
    scene.since()
    reader.say(m.Attend(3, scene.made.region))
    assert scene.since() == [("words", scene.made.line, 1, 1, 1 << 16), ("Done",)]
    reader.session.close()
    assert scene.since()[-1] == ("words", scene.made.line, 2, 0, 1 << 16)


def test_size_is_on_the_board_before_the_answer_to_growth(scene: Scene) -> None:
    scene.since()
    scene.control.say(ARENA_GROW, 1 << 17)
    assert scene.since() == [
        ("words", scene.made.line, 0, 0, 1 << 17),
        ("answer", ARENA_GROW, 0, 1 << 17),
    ]


def test_ledger_that_did_not_reach_its_client_is_forgotten_and_made_again(scene: Scene) -> None:
    reader = scene.client()
    send = reader.send

    def fail(message: m.Message, descriptors: Sequence[int]) -> None:
        if isinstance(message, m.Opened):
            raise OSError(24, "no descriptor is left for the copies")
        send(message, descriptors)

    reader.send = fail  # type: ignore[method-assign]
    scene.since()
    assert isinstance(reader.say(m.Open(2, ("camera",), (), False)), m.Refused)
    number = scene.since()[0][1]
    assert len(scene.world.hub.ledgers) == 0
    reader.send = send  # type: ignore[method-assign]
    opened = reader.say(m.Open(2, ("camera",), (), False))
    assert opened.ledger[0] not in (0, number)
    reader.session.close()


def test_newer_region_is_current_before_the_arena_is_not(scene: Scene) -> None:
    scene.since()
    published = scene.owner.publish("camera")
    assert [entry for entry in scene.since() if entry[0] == "current"] == [
        ("current", published.grant.line, published.grant.region),
        ("current", scene.made.line, 0),
    ]
