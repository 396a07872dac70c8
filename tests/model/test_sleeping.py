"""No reader sleeps for ever while there is a newer value, but some do without a part of the protocol."""

from __future__ import annotations

from typing import Any

import pytest

from model.explorer import Explorer
from model.memory import Buffered, Views
from model.sleeping import Sleep, protocol

BOTH = [Buffered, Views]
FUTEX, EVENTFD = {"by_futex": True}, {"by_futex": False}
ROADS = pytest.mark.parametrize("road", [FUTEX, EVENTFD], ids=["futex", "eventfd"])
JOIN = {"readers": 0, "joins": 1}
RUNS: dict[str, dict[str, Any]] = {
    "a reader": {},
    "more values": {"puts": 4},
    "a reader joins": JOIN,
    "a reader dies": {"kills": True},
    "two readers": {"readers": 2, "puts": 1},
}
LONG_RUNS: dict[str, dict[str, Any]] = {
    "two readers": {"readers": 2, "puts": 2},
    "a second reader joins": {"joins": 1, "puts": 3},
}
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "the fence of the owner": ({}, {"owner_fence": False}),
    "the comparison with the board": (JOIN, {"compares_board": False}),
    "raising the board's word before the grant": (JOIN, {"joining": ("list", "grant", "raise")}),
    "listing a ledger before raising the board's word": (JOIN, {"joining": ("raise", "list", "grant")}),
}
# The kernel does these by itself before a thread sleeps in a futex, but not before a read of an eventfd.
OF_THE_FUTEX: dict[str, dict[str, Any]] = {
    "the fence of the reader": {"reader_fence": False},
    "the second look at the word": {"looks_again": False},
}


def explore(model: type, *settings: dict[str, Any]) -> Any:
    sizes: dict[str, Any] = {}
    for setting in settings:
        sizes |= setting
    return Explorer(protocol(Sleep(**sizes)), model).run()


@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("run", RUNS)
def test_no_wake_is_lost(run: str, model: type, road: dict[str, Any]) -> None:
    outcome = explore(model, RUNS[run], road)
    assert outcome.broken is None, f"\n{outcome}"


@pytest.mark.torture
@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("run", LONG_RUNS)
def test_no_wake_is_lost_in_a_longer_run(run: str, model: type, road: dict[str, Any]) -> None:
    outcome = explore(model, LONG_RUNS[run], road)
    assert outcome.broken is None, f"\n{outcome}"


@ROADS
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", PARTS)
def test_wake_is_lost_without_each_part(part: str, model: type, road: dict[str, Any]) -> None:
    run, without = PARTS[part]
    outcome = explore(model, run, without, road)
    assert outcome.broken == "reader 1 waits for ever", f"nothing breaks without {part}\n{outcome}"


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", OF_THE_FUTEX)
def test_wake_by_eventfd_is_lost_without_what_the_futex_does(part: str, model: type) -> None:
    outcome = explore(model, OF_THE_FUTEX[part], EVENTFD)
    assert outcome.broken == "reader 1 waits for ever", f"nothing breaks without {part}\n{outcome}"
    outcome = explore(model, OF_THE_FUTEX[part], FUTEX)
    assert outcome.broken is None, f"\n{outcome}"
