"""No reader sleeps for ever while there is a newer value, but some do without a part of the protocol."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from model.explorer import Explorer, Outcome
from model.memory import Buffered, Views
from model.programs import ACQUIRE, RELEASE
from model.sleeping import Sleep, protocol

BOTH = [Buffered, Views]
ROADS = pytest.mark.parametrize("by_futex", [True, False], ids=["futex", "eventfd"])
LOST = "reader 1 waits for ever"
JOIN: dict[str, Any] = {"readers": 0, "joins": 1}
LATE = ("raise", "attend", "grant", "tell")
RUNS: dict[str, dict[str, Any]] = {
    "a reader": {},
    "more values": {"puts": 4},
    "a reader joins": JOIN,
    "the owner hears late of who joins": JOIN | {"joining": LATE},
    "a reader dies": {"kills": True},
    "two readers": {"readers": 2, "puts": 1},
}
LONG_RUNS: dict[str, dict[str, Any]] = {
    "two readers": {"readers": 2},
    "a second reader joins": {"joins": 1, "puts": 2},
}
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seq of the flip": ({}, {"flip": RELEASE}),
    "the comparison with the board": (JOIN, {"compares_board": False}),
    "raising the board's word before the grant": (JOIN, {"joining": ("tell", "grant", "raise", "attend")}),
    "waiting for late messages": (JOIN | {"joining": LATE}, {"catches_up": False}),
}
# The kernel does these by itself before a thread sleeps in a futex, but not before a read of an eventfd.
OF_THE_FUTEX: dict[str, dict[str, Any]] = {
    "seq of the mark": {"mark": RELEASE},
    "the second look at the word": {"looks_again": False},
}
ORDERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seq of the second look at the word": ({}, {"look": ACQUIRE}),
    "seq of the owner's loads": ({}, {"looks_for_marks": ACQUIRE}),
    "seq of the count of those who may sleep": (JOIN, {"attends": RELEASE}),
}


def explore(sleep: Sleep, model: type, **without: Any) -> Outcome:
    return Explorer(protocol(replace(sleep, **without)), model).run()


@pytest.mark.parametrize("fences", [False, True], ids=["seq", "fences"])
@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("run", RUNS)
def test_no_wake_is_lost(run: str, model: type, by_futex: bool, fences: bool) -> None:
    sleep = Sleep(by_futex=by_futex, **RUNS[run])
    _assert_holds(explore(sleep.with_fences() if fences else sleep, model))


@pytest.mark.torture
@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("run", LONG_RUNS)
def test_no_wake_is_lost_in_a_longer_run(run: str, model: type, by_futex: bool) -> None:
    _assert_holds(explore(Sleep(by_futex=by_futex, **LONG_RUNS[run]), model))


@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", PARTS)
def test_wake_is_lost_without_each_part(part: str, model: type, by_futex: bool) -> None:
    run, without = PARTS[part]
    _assert_lost(part, explore(Sleep(by_futex=by_futex, **run), model, **without))


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", OF_THE_FUTEX)
def test_wake_by_eventfd_is_lost_without_what_the_futex_does(part: str, model: type) -> None:
    _assert_lost(part, explore(Sleep(by_futex=False), model, **OF_THE_FUTEX[part]))
    _assert_holds(explore(Sleep(by_futex=True), model, **OF_THE_FUTEX[part]))


@pytest.mark.parametrize("part", ORDERS)
def test_wake_by_eventfd_is_lost_without_each_order_in_c11(part: str) -> None:
    run, without = ORDERS[part]
    _assert_lost(part, explore(Sleep(by_futex=False, **run), Views, **without))
    _assert_holds(explore(Sleep(by_futex=False, **run), Buffered, **without))


@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", ["reader_fence", "owner_fence"])
def test_wake_is_lost_without_each_fence(part: str, model: type, by_futex: bool) -> None:
    outcome = explore(Sleep(by_futex=by_futex).with_fences(), model, **{part: False})
    if by_futex and part == "reader_fence":  # the kernel has one
        _assert_holds(outcome)
    else:
        _assert_lost(part, outcome)


def _assert_holds(outcome: Outcome) -> None:
    assert outcome.broken is None, f"\n{outcome}"


def _assert_lost(part: str, outcome: Outcome) -> None:
    assert outcome.broken == LOST, f"no wake is lost without {part}\n{outcome}"
