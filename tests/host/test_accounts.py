"""Charges are taken to the byte, and each is given back once, whatever happens in between."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhost.core.accounts import Budget, Charge
from shmprotocol.errors import QuotaExceeded


def test_charge_is_taken_to_the_byte_and_given_back_once() -> None:
    budget = Budget(100)
    charge = budget.charge(60)
    with pytest.raises(QuotaExceeded, match="60 of 100"):
        budget.charge(41)
    budget.charge(40).release()
    charge.release()
    charge.release()
    assert budget.used == 0


def test_refusal_takes_nothing_and_says_what_to_do() -> None:
    budget = Budget(100)
    with pytest.raises(QuotaExceeded, match=r"^101 bytes .* 0 of 100 .* larger --budget$"):
        budget.charge(101)
    assert budget.used == 0
    assert budget.charge(100).size == budget.used == 100
    with pytest.raises(QuotaExceeded):
        budget.charge(1)
    assert budget.charge(0).size == 0


def test_charge_grows_to_the_limit_and_stays_what_it_was_beyond() -> None:
    budget = Budget(100)
    charge, _other = budget.charge(10), budget.charge(20)
    charge.grow(80)
    assert (charge.size, budget.used) == (80, 100)
    with pytest.raises(QuotaExceeded, match="1 bytes are over"):
        charge.grow(81)
    charge.shrink(30)
    assert (charge.size, budget.used) == (30, 50)


def test_limit_that_was_lowered_refuses_until_enough_is_given_back() -> None:
    budget = Budget(100)
    first, _second = budget.charge(60), budget.charge(20)
    budget.limit = 50
    with pytest.raises(QuotaExceeded, match="80 of 50"):
        budget.charge(1)
    first.release()
    assert budget.charge(30).size == 30


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=40))
def test_used_is_the_sum_of_the_charges_that_live(steps: list[tuple[int, int]]) -> None:
    budget, living = Budget(100), dict[int, Charge]()
    for size, number in steps:
        if number in living:
            charge = living.pop(number)
            charge.release()
            charge.release()
        else:
            try:
                living[number] = budget.charge(size)
            except QuotaExceeded:
                assert sum(charge.size for charge in living.values()) + size > 100
        assert budget.used == sum(charge.size for charge in living.values()) <= 100
