"""The arena protocol holds in all that can happen, and no longer when one of its parts is taken out."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pytest

from model.arena import Arena, protocol
from model.explorer import Explorer, Outcome
from model.memory import Buffered, Views
from model.programs import RELAXED

BOTH = [Buffered, Views]
WRITTEN = r"block \d is written while reader 1 holds it"
TORN = "reader 1 reads .* in block .*, where its record says|reader 1 got the value .* as that of generation"
RACE = "data race: block"
LEFT = "1 blocks stay in use, and 0 readers live"


@lru_cache
def explore(arena: Arena, model: type[Buffered] | type[Views]) -> Outcome:
    return Explorer(protocol(arena), model).run()


RUNS = {
    "a reader": {},
    "a reader that gets twice": {"gets": 2, "puts": 4},
    "two blocks": {"blocks": 2, "gets": 2},
    "blocks of two words": {"words": 2, "puts": 3},
    "two readers": {"readers": 2, "blocks": 2, "puts": 2},
    "a reader joins": {"readers": 0, "joins": 1, "blocks": 2, "puts": 4},
    "a second reader joins": {"joins": 1, "blocks": 2, "puts": 2},
    "a reader dies": {"kills": "readers", "gets": 2},
    "a reader joins and dies": {"readers": 0, "joins": 1, "blocks": 2, "puts": 4, "kills": "readers"},
    "the owner dies": {"kills": "owner"},
    "a reader stops": {"stops": True, "gets": 2},
    "the name is removed": {"removes_at": 3, "gets": 2},
}
SLOW = [("a second reader joins", Views)]
SHORT = [(run, model) for run in RUNS for model in BOTH if (run, model) not in SLOW]
LONG_RUNS = {
    "three gets": {"gets": 3, "puts": 5},
    "two readers, three blocks": {"readers": 2, "puts": 3},
    "two readers, always a free block": {"readers": 2, "blocks": 4, "puts": 4},
    "two readers join": {"readers": 0, "joins": 2, "blocks": 2},
    "one of two readers dies": {"joins": 1, "blocks": 2, "puts": 3, "kills": "readers"},
    "the name is removed, two readers": {"readers": 2, "blocks": 2, "puts": 3, "removes_at": 3},
}


@pytest.mark.parametrize(("run", "model"), SHORT)
def test_no_promise_is_broken(run: str, model: type) -> None:
    outcome = explore(Arena(**RUNS[run]), model)
    assert outcome.broken is None, f"\n{outcome}"


@pytest.mark.torture
@pytest.mark.parametrize(("run", "model"), [*SLOW, *((run, model) for run in LONG_RUNS for model in BOTH)])
def test_no_promise_is_broken_in_a_longer_run(run: str, model: type) -> None:
    outcome = Explorer(protocol(Arena(**(RUNS | LONG_RUNS)[run])), model).run(limit=50_000_000)
    assert outcome.broken is None, f"\n{outcome}"


JOIN = {"readers": 0, "joins": 1}
# What is taken out: in which run, how, and what breaks.
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the fence of the reader": ({}, {"reader_fence": False}, f"{WRITTEN}|{TORN}"),
    "the fence of the owner": ({}, {"owner_fence": False}, WRITTEN),
    "the second look at the word": ({}, {"second_check": False}, f"{WRITTEN}|{TORN}"),
    "the generation in the word": ({}, {"generation_in_word": False}, f"{WRITTEN}|{TORN}"),
    "generations that go on when a name comes back": (
        {"removes_at": 3},
        {"generation_goes_on": False},
        f"{WRITTEN}|{TORN}",
    ),
    "the comparison with the board": (JOIN, {"compares_board": False}, WRITTEN),
    "raising the board's word before the grant": (JOIN, {"joining": ("list", "grant", "raise")}, WRITTEN),
    "listing a ledger before raising the board's word": (
        JOIN | {"blocks": 2, "puts": 4},
        {"joining": ("raise", "list", "grant")},
        WRITTEN,
    ),
    "dropping a ledger before raising the board's word": (
        {"kills": "readers"},
        {"parting": ("raise", "list")},
        LEFT,
    ),
    "raising the board's word for the dead": ({"kills": "readers"}, {"parting": ("list",)}, LEFT),
    "keeping a ledger until its process is dead": ({}, {"hangs_up": True}, WRITTEN),
    "a hold that stays in its word": ({}, {"moves_hold": True}, WRITTEN),
}
# Orders that x86 always keeps, if the compiler does.
ORDERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "release of the flip": ({}, {"flip": RELAXED}, f"{RACE}|{TORN}"),
    "acquire of the first look at the word": ({}, {"first_load": RELAXED}, f"{RACE}|{TORN}"),
    "release of the fields of a record": ({}, {"fill": RELAXED}, f"{RACE}|{TORN}"),
    "release of letting go": ({}, {"let_go": RELAXED}, RACE),
    "release of the next hold": ({"gets": 2, "puts": 4}, {"hold": RELAXED}, RACE),
    "acquire of the scan": ({}, {"scan": RELAXED}, RACE),
}


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", PARTS)
def test_each_part_is_needed(part: str, model: type) -> None:
    run, without, breaks = PARTS[part]
    _assert_breaks(part, explore(Arena(**run), model), explore(Arena(**run | without), model), breaks)


@pytest.mark.parametrize("part", ORDERS)
def test_each_order_is_needed_in_c11(part: str) -> None:
    run, without, breaks = ORDERS[part]
    _assert_breaks(part, explore(Arena(**run), Views), explore(Arena(**run | without), Views), breaks)


@pytest.mark.parametrize("part", ORDERS)
def test_no_order_is_needed_on_x86(part: str) -> None:
    run, without, _ = ORDERS[part]
    outcome = explore(Arena(**run | without), Buffered)
    assert outcome.broken is None, f"\n{outcome}"


def _assert_breaks(part: str, whole: Outcome, without: Outcome, breaks: str) -> None:
    assert whole.broken is None, f"with {part}\n{whole}"
    assert without.broken is not None, f"nothing breaks without {part}\n{without}"
    assert re.search(breaks, without.broken), f"something else breaks without {part}\n{without}"


def test_arena_that_is_too_small_is_full_and_goes_on() -> None:
    """With a block less than one for each hold, one that is current and one to write, puts are refused."""
    assert explore(Arena(blocks=2, gets=2), Buffered).broken is None


def test_counterexample_tells_who_does_what() -> None:
    trace = explore(Arena(owner_fence=False), Buffered).trace
    assert trace[-1].startswith("  owner      | memory: block ")
    assert any("reader 1   | store hold of reader 1 = " in line for line in trace)
    assert any("owner      | load hold of reader 1 (acquire) -> None" in line for line in trace)
