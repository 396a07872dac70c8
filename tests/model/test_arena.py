"""The arena protocol holds in all that can happen, and no longer when one of its parts is taken out."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from model.arena import Arena, protocol
from model.explorer import Explorer, Outcome
from model.memory import Buffered, Views
from model.programs import ACQUIRE, RELAXED, RELEASE

BOTH = [Buffered, Views]
WRITTEN = r"block \d is written while reader 1 holds it"
TORN = "reader 1 reads .* in block .*, where its record says|reader 1 got the value .* as that of generation"
RACE = "data race: block"
LEFT = "1 blocks stay in use, and 0 readers live"


@lru_cache
def explore(arena: Arena, model: type[Buffered] | type[Views]) -> Outcome:
    return Explorer(protocol(arena), model).run()


JOIN: dict[str, Any] = {"readers": 0, "joins": 1}
UNHEARD = {"readers": 0, "joins": 2, "blocks": 2, "puts": 3, "takes_back": True, "audits": False}
RUNS: dict[str, dict[str, Any]] = {
    "a reader": {},
    "a reader that gets twice": {"gets": 2, "puts": 4},
    "two blocks": {"blocks": 2, "gets": 2},
    "blocks of two words": {"words": 2},
    "two readers": {"readers": 2, "blocks": 2, "puts": 2},
    "a reader joins": JOIN,
    "a reader joins, two blocks": JOIN | {"blocks": 2, "puts": 4},
    "the owner hears late of who joins": JOIN
    | {"blocks": 2, "puts": 4, "joining": ("raise", "grant", "tell")},
    "a client comes and goes unheard": UNHEARD,
    "a reader joins the next host": JOIN | {"blocks": 2, "puts": 4, "takeover": 0},
    "another host comes when a reader has joined": JOIN | {"blocks": 2, "puts": 4, "takeover": 1},
    "a reader of the next host dies": JOIN | {"blocks": 2, "puts": 4, "takeover": 0, "kills": "readers"},
    "a reader joins a host that was started again": JOIN | {"blocks": 2, "puts": 4, "killed": 0},
    "the host is killed when a reader has joined": JOIN | {"blocks": 2, "puts": 4, "killed": 1},
    "the message about a reader is lost with its host": JOIN
    | {"blocks": 2, "puts": 4, "killed": 1, "loses": True},
    "a reader of a host that was started again dies": JOIN
    | {"blocks": 2, "puts": 4, "killed": 0, "kills": "readers"},
    "a second reader joins": {"joins": 1, "blocks": 2, "puts": 2},
    "a reader dies": {"kills": "readers"},
    "a reader joins and dies": JOIN | {"blocks": 2, "puts": 4, "kills": "readers"},
    "the owner hears late of a death": {"kills": "readers", "parting": ("raise", "tell")},
    "the owner dies": {"kills": "owner"},
    "a reader stops": {"stops": True, "gets": 2},
    "the name is removed": {"removes_at": 3, "gets": 2},
}
FENCED = ["a reader", "two blocks", "a reader joins, two blocks", "the name is removed"]
# In C11 these take three seconds to minutes; `make test` has them with store buffers alone.
SLOW_RUNS = [
    "a reader that gets twice",
    "two readers",
    "a client comes and goes unheard",
    "another host comes when a reader has joined",
    "a reader of the next host dies",
    "the host is killed when a reader has joined",
    "the message about a reader is lost with its host",
    "a second reader joins",
    "a reader stops",
]
SLOW = [(run, Views) for run in SLOW_RUNS]
SHORT = [(run, model) for run in RUNS for model in BOTH if (run, model) not in SLOW]
LONG_RUNS: dict[str, dict[str, Any]] = {
    "a reader that gets twice dies": {"kills": "readers", "gets": 2},
    "three gets": {"gets": 3, "puts": 4},
    "two readers, three puts": {"readers": 2, "blocks": 2},
    "another host comes between two readers": {
        "readers": 0,
        "joins": 2,
        "blocks": 2,
        "puts": 2,
        "takeover": 1,
    },
    "the host is killed between two readers": {
        "readers": 0,
        "joins": 2,
        "blocks": 2,
        "puts": 2,
        "killed": 1,
    },
    "two readers join": {"readers": 0, "joins": 2, "blocks": 2, "puts": 2},
    "one of two readers dies": {"joins": 1, "blocks": 2, "puts": 2, "kills": "readers"},
    "two readers, the name is removed": {"readers": 2, "blocks": 2, "puts": 2, "removes_at": 3},
}
LONG = [*SLOW, *((run, model) for run in LONG_RUNS for model in BOTH)]


@pytest.mark.parametrize(("run", "model"), SHORT)
def test_no_promise_is_broken(run: str, model: type) -> None:
    _assert_holds(explore(Arena(**RUNS[run]), model))


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("run", FENCED)
def test_no_promise_is_broken_with_fences_in_place_of_seq(run: str, model: type) -> None:
    _assert_holds(explore(Arena(**RUNS[run]).with_fences(), model))


@pytest.mark.torture
@pytest.mark.parametrize(("run", "model"), LONG)
def test_no_promise_is_broken_in_a_longer_run(run: str, model: type) -> None:
    _assert_holds(Explorer(protocol(Arena(**(RUNS | LONG_RUNS)[run])), model).run(limit=50_000_000))


@pytest.mark.torture
@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("run", [run for run in RUNS if run not in FENCED])
def test_no_promise_is_broken_with_fences_in_a_longer_run(run: str, model: type) -> None:
    _assert_holds(Explorer(protocol(Arena(**RUNS[run]).with_fences()), model).run(limit=50_000_000))


def _assert_holds(outcome: Outcome) -> None:
    assert outcome.broken is None, f"\n{outcome}"


# What is taken out: in which run, how, and what breaks, with store buffers and in C11 alike.
PARTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "seq of the hold": ({}, {"hold": RELEASE}, f"{WRITTEN}|{TORN}"),
    "seq of the flip": ({}, {"flip": RELEASE}, WRITTEN),
    "the second look at the word": ({}, {"second_look": False}, f"{WRITTEN}|{TORN}"),
    "the generation in the word": ({}, {"generation_in_word": False}, f"{WRITTEN}|{TORN}"),
    "generations that go on when a name comes back": (
        {"removes_at": 3},
        {"generation_goes_on": False},
        f"{WRITTEN}|{TORN}",
    ),
    "the comparison with the board": (JOIN, {"compares_board": False}, WRITTEN),
    "raising the board's word before the grant": (JOIN, {"joining": ("tell", "grant", "raise")}, WRITTEN),
    "raising the board's word for the dead": ({"kills": "readers"}, {"parting": ("tell",)}, LEFT),
    "keeping a ledger until its process is dead": ({}, {"hangs_up": True}, WRITTEN),
    "marking the board of the host before": (JOIN | {"takeover": 0}, {"mark": ""}, WRITTEN),
    "the owner's word before others join a host that was started again": (
        JOIN | {"killed": 0},
        {"waits_for_back": False},
        WRITTEN,
    ),
    "the look for a host that was started again": (JOIN | {"killed": 0}, {"looks": False}, WRITTEN),
    "telling an owner again who had joined": (
        JOIN | {"killed": 1, "loses": True},
        {"tells_again": False},
        WRITTEN,
    ),
    "a hold that stays in its word": ({}, {"moves_hold": True}, WRITTEN),
}
SLOW_PART = ("telling an owner again who had joined", Views)
# Orders that x86 always keeps, if the compiler does.
ORDERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "release of the flip": ({}, {"flip": RELAXED}, f"{RACE}|{TORN}"),
    "release of the fields of a record": ({}, {"fill": RELAXED}, f"{RACE}|{TORN}"),
    "acquire of the first look at the word": ({}, {"first_load": RELAXED}, f"{RACE}|{TORN}"),
    "seq of the second look at the word": ({}, {"second_load": ACQUIRE}, WRITTEN),
    "seq of the highest hold": ({}, {"high": RELEASE}, WRITTEN),
    "release of letting go": ({}, {"let_go": RELAXED}, RACE),
    "seq of the owner's loads": ({}, {"collects": ACQUIRE}, WRITTEN),
    "seq of marking the board of the host before": (JOIN | {"takeover": 0}, {"mark": RELEASE}, WRITTEN),
    "seq of offering the next control socket": (JOIN | {"killed": 0}, {"offer": RELEASE}, WRITTEN),
    "seq of raising the board's word": (JOIN, {"raises": RELEASE}, WRITTEN),
}
# The same where fences are in place of seq.
FENCES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "the fence of the reader": ({}, {"reader_fence": False}, f"{WRITTEN}|{TORN}"),
    "the fence of the owner": ({}, {"owner_fence": False}, WRITTEN),
    "the second look at the word": ({}, {"second_look": False}, f"{WRITTEN}|{TORN}"),
}
FENCED_ORDERS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "release of the flip": ({}, {"flip": RELAXED}, f"{RACE}|{TORN}"),
    "release of the fields of a record": ({}, {"fill": RELAXED}, f"{RACE}|{TORN}"),
    "release of the next hold": ({"gets": 2, "blocks": 2}, {"hold": RELAXED}, RACE),
    "release of letting go": ({}, {"let_go": RELAXED}, RACE),
    "acquire of the owner's loads": ({}, {"collects": RELAXED}, RACE),
}


@pytest.mark.parametrize(
    ("part", "model"), [(part, model) for part in PARTS for model in BOTH if (part, model) != SLOW_PART]
)
def test_each_part_is_needed(part: str, model: type) -> None:
    run, without, breaks = PARTS[part]
    _assert_breaks(part, Arena(**run), without, model, breaks)


@pytest.mark.torture
def test_part_is_needed_in_a_longer_run() -> None:
    test_each_part_is_needed(*SLOW_PART)


@pytest.mark.parametrize("part", ORDERS)
def test_each_order_is_needed_in_c11(part: str) -> None:
    run, without, breaks = ORDERS[part]
    _assert_breaks(part, Arena(**run), without, Views, breaks)


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize("part", FENCES)
def test_each_fence_is_needed(part: str, model: type) -> None:
    run, without, breaks = FENCES[part]
    _assert_breaks(part, Arena(**run).with_fences(), without, model, breaks)


@pytest.mark.parametrize("part", FENCED_ORDERS)
def test_each_order_is_needed_in_c11_beside_fences(part: str) -> None:
    run, without, breaks = FENCED_ORDERS[part]
    _assert_breaks(part, Arena(**run).with_fences(), without, Views, breaks)


def _assert_breaks(part: str, arena: Arena, without: dict[str, Any], model: type, breaks: str) -> None:
    whole, rest = explore(arena, model), explore(replace(arena, **without), model)
    assert whole.broken is None, f"with {part}\n{whole}"
    assert rest.broken is not None, f"nothing breaks without {part}\n{rest}"
    assert re.search(breaks, rest.broken), f"something else breaks without {part}\n{rest}"


@pytest.mark.parametrize("part", [part for part in ORDERS if part != "release of the flip"])
def test_order_is_not_needed_on_x86(part: str) -> None:
    run, without, _ = ORDERS[part]
    _assert_holds(explore(Arena(**run | without), Buffered))


def test_counterexample_tells_who_does_what() -> None:
    trace = explore(Arena(hold=RELEASE), Buffered).trace
    assert trace[-1].startswith("  owner      | memory: block ")
    assert any("reader 1   | store hold of reader 1 = " in line for line in trace)
    assert any("owner      | load hold of reader 1 (seq) -> None" in line for line in trace)
