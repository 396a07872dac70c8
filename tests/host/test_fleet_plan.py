"""The address plan: slices of windows, and the allocator that hands out of one of them."""

from __future__ import annotations

import pytest

from shmhost.core.window import STEP, Span
from shmhost.fleet.plan import SlicedAllocator, check_slices, parts_of, slice_of
from shmprotocol.errors import InvalidArgument, QuotaExceeded

BASE = 0x550000000000
WINDOWS = ((BASE, 40 * STEP), (0x510000000000, 80 * STEP))


def allocator(slice_number: int | None = 1) -> SlicedAllocator:
    result = SlicedAllocator(WINDOWS, 4)
    if slice_number is not None:
        result.use(slice_number)
    return result


def test_slices_cover_a_window_without_overlap() -> None:
    parts = parts_of((BASE, 41 * STEP), 4)
    assert [part.address for part in parts] == [BASE + number * 10 * STEP for number in range(4)]
    assert {part.size for part in parts} == {10 * STEP}


@pytest.mark.parametrize(
    ("start", "size", "number"),
    [(0, 10, 0), (9, 1, 0), (9, 2, None), (10, 1, 1), (39, 1, 3), (40, 1, None), (-1, 1, None)],
)
def test_span_is_in_one_slice_or_in_none(start: int, size: int, number: int | None) -> None:
    assert slice_of(WINDOWS, 4, Span(BASE + start * STEP, size * STEP)) == number


def test_spans_come_out_of_the_own_slice_of_each_window_until_it_is_full() -> None:
    host = allocator()
    spans = []
    with pytest.raises(TypeError):
        while True:
            span, _ = host.take(STEP // 2)  # type: ignore[misc]  # None when all is taken
            spans.append(span)
    assert len(spans) == 10 + 20
    assert {slice_of(WINDOWS, 4, span) for span in spans} == {1}


def test_foreign_addresses_are_claimed_once_and_given_back() -> None:
    host, span = allocator(), Span(BASE + 35 * STEP, STEP)
    window = host.claim(span)
    assert window is not None
    assert window.range == WINDOWS[0]
    assert host.claim(span) is None
    host.give(span)
    assert host.claim(span) is not None


def test_own_addresses_can_be_claimed_and_are_not_given_twice() -> None:
    host, span = allocator(), Span(BASE + 10 * STEP, STEP)
    assert host.claim(span) is not None
    taken = [host.take(1) for _ in range(9)]
    assert all(each is not None and each[0] != span for each in taken)
    host.give(span)
    assert host.take(1) is not None


def test_claim_over_the_edge_of_the_own_slice_is_refused() -> None:
    assert allocator().claim(Span(BASE + 19 * STEP, 2 * STEP)) is None
    assert allocator().claim(Span(BASE + 9 * STEP, 2 * STEP)) is None


def test_address_that_a_creator_asks_for_is_refused_in_a_foreign_slice() -> None:
    host = allocator(1)
    assert host.claim_at(BASE + 10 * STEP, 1)[0] == Span(BASE + 10 * STEP, STEP)
    for address in (BASE, BASE + 20 * STEP):
        with pytest.raises(InvalidArgument, match="of the fleet, and this host has 1"):
            host.claim_at(address, 1)


def test_slice_is_not_free_while_a_foreign_region_lies_in_it() -> None:
    host, span = allocator(), Span(0x510000000000 + 79 * STEP, STEP)
    assert host.is_free(3)
    host.claim(span)
    assert not host.is_free(3)
    host.give(span)
    assert host.is_free(3)


def test_next_slice_is_used_after_one_was_lost_and_spans_return_to_theirs() -> None:
    host = allocator(1)
    first = host.take(1)
    host.use(None, "another has it")
    with pytest.raises(QuotaExceeded, match="another has it"):
        host.take(1)
    host.use(2)
    second = host.take(1)
    assert first is not None
    assert second is not None
    assert (slice_of(WINDOWS, 4, first[0]), slice_of(WINDOWS, 4, second[0])) == (1, 2)
    host.give(first[0])
    assert host.is_free(1)
    assert not host.is_free(2)


def test_host_without_a_slice_gives_no_address() -> None:
    with pytest.raises(QuotaExceeded, match="has not joined"):
        allocator(None).take(1)


@pytest.mark.parametrize("count", [0, 4097, 21])
def test_impossible_numbers_of_slices_are_refused(count: int) -> None:
    with pytest.raises(InvalidArgument):
        check_slices(WINDOWS, count)


def test_largest_number_of_slices_is_taken() -> None:
    assert check_slices(WINDOWS, 20) == 20
