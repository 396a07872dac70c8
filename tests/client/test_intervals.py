"""The interval map against a plain list of all bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmclient._process.intervals import Interval, Intervals

RANGES = st.tuples(st.integers(0, 60), st.integers(1, 12))


@given(st.lists(RANGES, max_size=30), st.lists(RANGES, max_size=5), st.integers(0, 80))
def test_intervals_agree_with_a_list_of_bytes(
    ranges: list[tuple[int, int]], questions: list[tuple[int, int]], removed: int
) -> None:
    intervals: Intervals[int] = Intervals()
    owner: dict[int, int] = {}
    for number, (start, size) in enumerate(ranges):
        if any(byte in owner for byte in range(start, start + size)):
            assert intervals.overlapping(start, size)
            continue
        intervals.add(start, size, number)
        owner |= dict.fromkeys(range(start, start + size), number)
    gone = intervals.starting(removed)
    if gone is not None:
        intervals.remove(removed)
        owner = {byte: number for byte, number in owner.items() if number != gone}
    for start, size in questions:
        expected = sorted({owner[byte] for byte in range(start, start + size) if byte in owner})
        assert sorted(overlap.value for overlap in intervals.overlapping(start, size)) == expected
        assert intervals.at(start) == owner.get(start)
    assert [overlap.value for overlap in intervals] == [
        owner[byte] for byte in sorted(owner) if byte in firsts(owner)
    ]
    assert len(intervals) == len(set(owner.values()))


def firsts(owner: dict[int, int]) -> set[int]:
    """Return the first byte of each range."""
    return {min(byte for byte in owner if owner[byte] == number) for number in set(owner.values())}


def test_intervals_say_where_a_range_is_and_refuse_what_is_not_there() -> None:
    intervals: Intervals[str] = Intervals()
    intervals.add(10, 5, "a")
    assert intervals.overlapping(14, 1) == [Interval(10, 5, "a")]
    assert (intervals.overlapping(15, 9), intervals.overlapping(0, 10)) == ([], [])
    with pytest.raises(KeyError):
        intervals.remove(11)
    intervals.remove(10)
    assert (len(intervals), intervals.at(10), intervals.starting(10)) == (0, None, None)
