"""The agreement on slices: its answers one by one, and hosts that join in any order of messages."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmhost.fleet.claims import PROMISE_S, Claims
from shmhost.fleet.conflicts import Conflicts, choose
from shmhost.machine import fleet_file

LOW, HIGH = "0" * 16, "f" * 16


def is_free(_number: int) -> bool:
    return True


def test_slice_in_use_is_refused() -> None:
    claims = Claims(HIGH, 4)
    claims.begin(2)
    assert claims.settle(2)
    assert "in use" in claims.answer(2, (True, LOW), 0.0, is_free)
    assert claims.answer(1, (True, LOW), 0.0, is_free) == ""


@pytest.mark.parametrize("number", [-1, 4])
def test_slice_that_does_not_exist_is_refused(number: int) -> None:
    assert "there is no slice" in Claims(LOW, 4).answer(number, (True, HIGH), 0.0, is_free)


def test_smaller_rank_goes_on_when_two_ask_for_the_same() -> None:
    low, high = Claims(LOW, 4), Claims(HIGH, 4)
    low.begin(1)
    high.begin(1)
    assert "comes first" in low.answer(1, high.rank, 0.0, is_free)
    assert high.answer(1, low.rank, 0.0, is_free) == ""
    assert not high.settle(1)
    assert low.settle(1)


def test_number_of_a_file_comes_before_agreement() -> None:
    fixed, agreed = Claims(HIGH, 4, 1), Claims(LOW, 4)
    fixed.begin(1)
    agreed.begin(1)
    assert fixed.answer(1, agreed.rank, 0.0, is_free) != ""
    assert agreed.answer(1, fixed.rank, 0.0, is_free) == ""


def test_granted_slice_is_refused_to_others_for_a_while() -> None:
    third = Claims("8" * 16, 4)
    assert third.answer(1, (True, HIGH), 0.0, is_free) == ""
    assert "a moment ago" in third.answer(1, (True, LOW), PROMISE_S - 0.1, is_free)
    assert third.answer(1, (True, HIGH), 1.0, is_free) == ""
    assert third.answer(1, (True, LOW), 1.0 + PROMISE_S, is_free) == ""


def test_promise_ends_with_its_host() -> None:
    third = Claims("8" * 16, 4)
    third.answer(1, (True, HIGH), 0.0, is_free)
    third.forget(HIGH)
    assert third.answer(1, (True, LOW), 0.0, is_free) == ""


def test_promise_ends_when_its_host_asks_for_another_slice() -> None:
    third = Claims("8" * 16, 4)
    third.answer(1, (True, HIGH), 0.0, is_free)
    third.answer(2, (True, HIGH), 0.0, is_free)
    assert third.answer(1, (True, LOW), 0.0, is_free) == ""


def test_refused_slice_is_chosen_after_all_others() -> None:
    claims = Claims(LOW, 2)
    chosen = []
    for _ in range(3):
        chosen.append(claims.choose((), is_free, None))
        claims.begin(chosen[-1] or 0)
        claims.withdraw()
    assert chosen == [0, 1, 0]


def test_slice_with_regions_is_refused_and_not_chosen() -> None:
    claims = Claims(LOW, 2)
    assert "not yours" in claims.answer(0, (True, HIGH), 0.0, lambda number: number != 0)
    assert claims.choose((), lambda number: number != 0, 0) == 1
    assert claims.choose((1,), lambda number: number != 0, 0) is None


@pytest.mark.parametrize("preferred", [-1, 2, 10**9])
def test_wish_is_ignored_when_there_is_no_such_slice(preferred: int) -> None:
    assert Claims(LOW, 2).choose((), is_free, preferred) == 0


def test_larger_rank_loses_when_two_meet() -> None:
    low, high = Claims(LOW, 4), Claims(HIGH, 4)
    for claims in (low, high):
        claims.begin(3)
        claims.settle(3)
    assert not low.meet(3, high.rank)
    assert not high.meet(2, low.rank)
    assert high.meet(3, low.rank)
    assert (high.held, high.lost, low.held) == (None, [3], 3)
    assert high.choose((), is_free, 3) != 3


class Run:
    """Hosts that all see each other, and whose messages come in an order of chance."""

    def __init__(self, seed: int, hosts: int, slices: int) -> None:
        self.chance = random.Random(seed)
        names = [f"{self.chance.getrandbits(64):016x}" for _ in range(hosts)]
        self.hosts = {name: Claims(name, slices) for name in names}
        self.now_s = 0.0

    def play(self) -> None:
        running = [self.join(claims) for claims in self.hosts.values()]
        while running:
            self.now_s += self.chance.random() / 10
            steps = self.chance.choice(running)
            if next(steps, None) is None:
                running.remove(steps)

    def join(self, claims: Claims) -> Iterator[bool]:
        """Join, with a yield where messages of others may come; what others say of slices may be old."""
        while claims.held is None:
            taken = {each.held for each in self.hosts.values() if each.held is not None}
            yield True
            number = claims.choose(taken, is_free, None)
            if number is None:
                self.now_s += PROMISE_S
                continue
            claims.begin(number)
            yield True
            if (yield from self.all_grant(claims, number)) and claims.settle(number):
                return
            claims.withdraw()

    def all_grant(self, claims: Claims, number: int) -> Iterator[bool]:
        for name in self.chance.sample(list(self.hosts), len(self.hosts)):
            other = self.hosts[name]
            if other is not claims and other.answer(number, claims.rank, self.now_s, is_free):
                return False
            yield True
        return True


@pytest.mark.parametrize("hosts", [2, 3, 5])
def test_no_slice_has_two_hosts_in_any_order_of_messages(hosts: int) -> None:
    for seed in range(100):
        run = Run(seed, hosts, hosts)
        run.play()
        assert len({claims.held for claims in run.hosts.values()}) == hosts


def test_slice_that_was_lost_before_a_restart_is_neither_chosen_nor_granted(tmp_path: Path) -> None:
    path = str(tmp_path / "host.sock.fleet")
    fleet_file.store(path, fleet_file.Identity(LOW, 1, (0, 2)))
    identity = fleet_file.load(path)
    claims = Claims(identity.host, 4, None, identity.lost)
    assert {claims.choose((), is_free, wish) for wish in range(4)} == {1, 3}
    assert "regions that are not yours" in claims.answer(2, (True, HIGH), 0.0, is_free)
    claims.begin(0)  # as with a number in the file
    assert claims.settle(0)
    assert claims.lost == [2]


def test_file_of_a_host_without_lost_slices_is_read(tmp_path: Path) -> None:
    path = tmp_path / "host.sock.fleet"
    path.write_text('{"host": "0123456789abcdef", "slice": 3}')
    assert fleet_file.load(str(path)) == fleet_file.Identity("0123456789abcdef", 3, ())


@pytest.mark.parametrize(
    ("hosts", "present", "current", "chosen"),
    [
        ("", "ab", None, None),
        ("ba", "ab", None, "a"),
        ("ab", "b", None, "b"),  # the first is not there
        ("ab", "b", "a", "a"),  # but its copy is
        ("ab", "ab", "b", "a"),  # it is back
        ("b", "ab", "a", "b"),  # it has the name no more
        ("ab", "", None, "a"),
    ],
)
def test_exporter_with_the_smallest_identity_is_chosen(
    hosts: str, present: str, current: str | None, chosen: str | None
) -> None:
    assert choose(list(hosts), list(present), current) == chosen


def test_conflict_is_noted_once_and_ends_with_the_second_exporter() -> None:
    conflicts = Conflicts()
    assert not conflicts.note("x", ["b"])
    assert conflicts.note("x", ["b", "a"])
    assert not conflicts.note("x", ["b", "a"])
    assert conflicts.names == {"x": ("a", "b")}
    assert not conflicts.note("x", ["a"])
    assert conflicts.names == {}
