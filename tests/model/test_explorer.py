"""The explorer visits all states, and finds what waits for ever, what dies and what hides its state."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from model.explorer import DEAD, Explorer, Protocol
from model.memory import Buffered, Views, Word
from model.programs import Await, Broken, Choose, Fence, FutexWait, Load, Post, Quiet, Store

MODELS = [Buffered, Views]
pytestmark = pytest.mark.parametrize("model", MODELS)


def explore(model: type, processes: dict[str, Any], **options: Any) -> Any:
    words = {
        "x": Word(0, "writer", frozenset(processes)),
        "bell": Word(0, is_message=True),
        "asleep": Word(False, is_message=True),
        DEAD: Word((), is_message=True),
    }
    return Explorer(Protocol(words, processes, **options), model).run()


def loads(count: int) -> Any:
    for _ in range(count):
        yield Load("x")


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (3, 5)])
def test_every_pair_of_places_is_visited_once(model: type, first: int, second: int) -> None:
    outcome = explore(model, {"a": partial(loads, first), "b": partial(loads, second)})
    assert (outcome.states, outcome.broken) == ((first + 1) * (second + 1), None)


def test_deaths_come_before_each_step(model: type) -> None:
    """Of 3 places, 2 are not the end, and all of them that died are one state each with the message."""
    outcome = explore(model, {"a": partial(loads, 2)}, mortal=frozenset(["a"]))
    assert outcome.states == 3 + 1


def test_each_option_is_tried(model: type) -> None:
    def chooser() -> Any:
        first = yield Choose((1, 2))
        second = yield Choose((1, 2))
        if (first, second) == (2, 1):
            raise Broken("2, then 1")

    outcome = explore(model, {"a": chooser})
    assert outcome.broken == "2, then 1"
    assert [line.split("|")[1] for line in outcome.trace] == [" choose 2", " choose 1"]


def test_waiting_for_ever_is_seen_unless_it_is_a_servant(model: type) -> None:
    def waiter() -> Any:
        yield Await("bell", unlike=0)

    assert explore(model, {"a": waiter}).broken == "a waits for ever"
    assert explore(model, {"a": waiter}, servants=frozenset(["a"])).broken is None


def test_eventfd_is_taken_by_one_alone(model: type) -> None:
    def waiter() -> Any:
        yield Await("bell", unlike=0, leave=0)

    def ringer() -> Any:
        yield Post("bell", 1)

    assert explore(model, {"a": waiter, "writer": ringer}).broken is None
    assert "waits for ever" in explore(model, {"a": waiter, "b": waiter, "writer": ringer}).broken


@pytest.mark.parametrize("fence", [True, False])
def test_futex_compares_and_sleeps_in_one_step(model: type, fence: bool) -> None:
    """The writer always wakes, so only a wake between comparison and sleep could be lost."""

    def waiter() -> Any:
        asleep = yield FutexWait("x", 0, "asleep")
        if asleep:
            yield Await("asleep", unlike=True)

    def writer() -> Any:
        yield Store("x", 1)
        if fence:
            yield Fence()
        yield Post("asleep", False)

    assert explore(model, {"a": waiter, "writer": writer}).broken is None


def test_quiet_comes_after_all_others_and_sees_all(model: type) -> None:
    def writer() -> Any:
        yield Store("x", 1)
        yield Store("x", 2)

    def last() -> Any:
        yield Quiet()
        seen = yield Load("x")
        if seen != 2:
            raise Broken(f"saw {seen}")

    assert explore(model, {"last": last, "writer": writer}).broken is None


def test_killed_process_leaves_what_it_stored_or_not(model: type) -> None:
    def writer() -> Any:
        yield Store("x", 1)
        yield Load("x")

    def watcher(bad: int) -> Any:
        yield Await(DEAD, unlike=())
        seen = yield Load("x")
        if seen == bad:
            raise Broken("seen")

    def broken(bad: int) -> str | None:
        processes = {"writer": writer, "b": partial(watcher, bad)}
        return explore(model, processes, mortal=frozenset(["writer"]), servants=frozenset(["b"])).broken

    # In C11 the store is done, and the kernel tells of the death after it: nobody sees less.
    assert [bad for bad in (0, 1) if broken(bad)] == ([0, 1] if model is Buffered else [1])


def test_guard_is_asked_before_a_value_reaches_memory(model: type) -> None:
    def writer() -> Any:
        yield Load("x")
        yield Store("x", 1)

    outcome = explore(model, {"writer": writer}, guard=lambda at, _: f"{at} is written")
    assert outcome.broken == "x is written"


def test_hidden_state_is_refused(model: type) -> None:
    """The value of the first choice waits for the second, where no variable has it."""

    def hider() -> Any:
        pair = ((yield Choose((1, 2))), (yield Choose((1, 2))))
        yield Post("bell", pair)

    with pytest.raises(AssertionError, match="hides a part of its state"):
        explore(model, {"a": hider})


def test_loop_over_equal_items_is_refused(model: type) -> None:
    def looper() -> Any:
        for item in (1, 1, 2):
            yield Load("x")
            del item

    with pytest.raises(AssertionError, match="hides a part of its state"):
        explore(model, {"a": looper})
