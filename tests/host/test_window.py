"""Addresses: spans never overlap, have their guard, and come back whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhost.core.window import GUARD, STEP, Allocator, Span, Window, span_size

BASE = 0x550000000000


@pytest.mark.parametrize(
    ("capacity", "steps"),
    [(1, 1), (STEP - GUARD, 1), (STEP - GUARD + 1, 2), (STEP, 2), (2 * STEP - GUARD, 2), (2 * STEP, 3)],
)
def test_span_has_room_for_the_region_and_a_guard_page(capacity: int, steps: int) -> None:
    assert span_size(capacity) == steps * STEP


@given(st.lists(st.one_of(st.integers(1, 3 * STEP), st.integers(-20, -1)), max_size=60))
def test_spans_never_overlap_and_all_come_back(schedule: list[int]) -> None:
    """A positive number takes a region of that capacity, a negative one gives one of those back."""
    window = Window(BASE, 32 * STEP)
    held: list[Span] = []
    for action in schedule:
        if action < 0 and held:
            window.give(held.pop(action % len(held)))
        elif action > 0:
            span = window.take(span_size(action))
            if span is not None:
                held.append(span)
        ordered = sorted(held, key=lambda span: span.address)
        assert all(span.address % STEP == 0 for span in ordered)
        assert all(span.address >= BASE and span.end <= BASE + 32 * STEP for span in ordered)
        assert all(a.end <= b.address for a, b in itertools.pairwise(ordered))
        assert window.free() + sum(span.size for span in held) == 32 * STEP
    for span in held:
        window.give(span)
    assert window.take(32 * STEP) == Span(BASE, 32 * STEP)


def test_address_is_used_again_as_late_as_possible() -> None:
    window = Window(BASE, 4 * STEP)
    first = window.take(STEP)
    assert first is not None
    window.give(first)
    others = [window.take(STEP) for _ in range(4)]
    assert [span.address if span else 0 for span in others] == [BASE + n * STEP for n in (1, 2, 3, 0)]


def test_window_takes_its_last_step_and_then_nothing() -> None:
    window = Window(BASE, 2 * STEP)
    assert window.take(3 * STEP) is None
    assert window.take(2 * STEP) == Span(BASE, 2 * STEP)
    assert window.take(STEP) is None
    assert window.free() == 0


def test_allocator_uses_the_second_window_when_the_first_is_full() -> None:
    allocator = Allocator(((BASE, 2 * STEP), (0x510000000000, 4 * STEP)))
    bases = []
    spans = []
    for _ in range(6):
        room = allocator.take(100)
        assert room is not None
        bases.append(room[1].base)
        spans.append(room[0])
    assert bases == [BASE] * 2 + [0x510000000000] * 4
    assert allocator.take(100) is None
    for span in spans:
        allocator.give(span)
    assert [window.free() for window in allocator.windows] == [2 * STEP, 4 * STEP]


def test_allocator_knows_the_largest_capacity() -> None:
    allocator = Allocator(((BASE, 2 * STEP), (0x510000000000, 4 * STEP)))
    assert allocator.largest == 4 * STEP - GUARD
    assert allocator.take(allocator.largest) is not None


class Plain:
    """A window with one list of its free steps: what Window does, by the plainest means."""

    def __init__(self, steps: int) -> None:
        self.is_free = [True] * steps
        self.next = 0

    def take(self, count: int) -> int | None:
        steps = len(self.is_free)
        tries = list(range(self.next, steps)) + list(range(steps))
        for start in self.starts(tries, count):
            self.is_free[start : start + count] = [False] * count
            self.next = start + count
            return start
        return None

    def starts(self, tries: list[int], count: int) -> list[int]:
        """Where a search may end: at the place of the last one, or at the beginning of a free range."""
        return [
            start
            for start in tries
            if start + count <= len(self.is_free)
            and all(self.is_free[start : start + count])
            and (start in (0, self.next) or not self.is_free[start - 1])
        ]

    def give(self, start: int, count: int) -> None:
        self.is_free[start : start + count] = [True] * count


@given(st.lists(st.one_of(st.integers(1, 4), st.integers(-40, -1)), max_size=120))
def test_search_ends_where_the_plainest_one_does(schedule: list[int]) -> None:
    """A positive number takes so many steps, a negative one gives a span back; blocks have two ranges."""
    window, plain = Window(BASE, 40 * STEP), Plain(40)
    held: list[Span] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shmhost.core.ranges.BLOCK", 2)
        for action in schedule:
            if action < 0 and held:
                span = held.pop(action % len(held))
                window.give(span)
                plain.give((span.address - BASE) // STEP, span.size // STEP)
            elif action > 0:
                taken, want = window.take(action * STEP), plain.take(action)
                assert (None if taken is None else (taken.address - BASE) // STEP) == want
                held += [taken] if taken is not None else []


def test_thousands_of_free_ranges_are_found_and_joined() -> None:
    window = Window(BASE, 3000 * STEP)
    spans = [window.take(STEP) for _ in range(3000)]
    assert None not in spans
    for span in spans[::2]:
        window.give(span or Span(0, 0))
    assert window.take(2 * STEP) is None
    assert window.take(STEP) == spans[0]
    for span in spans[1::2]:
        window.give(span or Span(0, 0))
    assert window.take(2999 * STEP) == Span(BASE + STEP, 2999 * STEP)
