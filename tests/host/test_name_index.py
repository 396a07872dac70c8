"""The indexes of names and prefixes find what a look at each entry finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shmhost.core.name_index import NameIndex, PrefixIndex

NAMES = st.text("ab/0.", max_size=5)
CHANGES = st.lists(st.tuples(st.booleans(), NAMES, st.integers(0, 3)), max_size=30)


@given(CHANGES, NAMES)
def test_prefixes_of_a_name_are_those_that_it_starts_with(
    changes: list[tuple[bool, str, int]], name: str
) -> None:
    index, entries = PrefixIndex(), set[tuple[str, int]]()
    for is_new, prefix, number in changes:
        if is_new and (prefix, number) not in entries:
            entries.add((prefix, number))
            index.add(prefix, number)
        elif not is_new and (prefix, number) in entries:
            entries.remove((prefix, number))
            index.remove(prefix, number)
    assert sorted(index.of(name)) == sorted(number for prefix, number in entries if name.startswith(prefix))


@given(CHANGES, NAMES)
def test_names_below_a_name_are_those_that_continue_it_with_a_slash(
    changes: list[tuple[bool, str, int]], name: str
) -> None:
    index, entries = NameIndex(), set[tuple[str, int]]()
    for is_new, other, number in changes:
        (entries.add if is_new else entries.discard)((other, number))
        (index.add if is_new else index.remove)(other, number)
    assert sorted(index.of(name)) == sorted(number for other, number in entries if other == name)
    below = {number for other, number in entries if other == name or other.startswith(name + "/")}
    assert sorted(index.of_all_below(name)) == sorted(below)


def test_empty_indexes_keep_nothing() -> None:
    prefixes, names = PrefixIndex(), NameIndex()
    prefixes.add("a", 1)
    prefixes.remove("a", 1)
    names.add("a", 1)
    names.remove("a", 1)
    assert (prefixes._lengths, prefixes._numbers, names._names, names._numbers) == ({}, {}, [], {})
