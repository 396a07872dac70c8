"""The waits and watches of one client: their limit, and the number by which each is ended."""

from __future__ import annotations

import pytest

from shmhost.core.accounts import Accounts
from shmhost.core.interests import MAX_LISTENING, Interests
from shmhost.core.resources import Totals
from shmprotocol.errors import QuotaExceeded, RemoteProtocolError
from shmprotocol.wire import messages as m


def wait(number: int, *names: str) -> m.Open:
    return m.Open(number, names, (), True)


def test_names_and_prefixes_find_their_waits_and_watches() -> None:
    interests = Interests(Accounts(Totals(1)).of(0).listening)
    interests.wait(wait(1, "a", "b"))
    interests.wait(wait(2, "b"))
    interests.watch(m.Watch(3, ""))
    interests.watch(m.Watch(4, "a/"))
    assert [[request.id for request in interests.waits(name)] for name in "abc"] == [[1], [1, 2], []]
    assert [interests.watches(name) for name in ("a", "a/b")] == [[3], [3, 4]]
    assert len(interests) == 4


def test_arena_ends_the_waits_for_its_name_and_for_what_lies_below() -> None:
    interests = Interests(Accounts(Totals(1)).of(0).listening)
    for number, name in enumerate(("a", "a/b", "a/b/c", "ab", "b/a")):
        interests.wait(wait(number, name, "other"))
    assert [request.id for request in interests.waits("a", is_arena=True)] == [0, 1, 2]
    assert [request.id for request in interests.waits("a")] == [0]


def test_numbers_in_use_are_refused_for_their_kind_alone() -> None:
    interests = Interests(Accounts(Totals(1)).of(0).listening)
    interests.wait(wait(1, "a"))
    interests.watch(m.Watch(2, ""))
    interests.check_wait(2)
    interests.check_watch(1)
    with pytest.raises(RemoteProtocolError, match="id 1 is in use by a wait"):
        interests.check_wait(1)
    with pytest.raises(RemoteProtocolError, match="id 2 is in use by a watch"):
        interests.check_watch(2)


def test_limit_counts_each_name_of_a_wait() -> None:
    interests = Interests(Accounts(Totals(1)).of(0).listening)
    for number in range(MAX_LISTENING - 2):
        interests.watch(m.Watch(number, ""))
    with pytest.raises(QuotaExceeded, match=f"one has {MAX_LISTENING - 2}"):
        interests.wait(wait(5000, "a", "b", "c"))
    assert interests.waits("a") == []
    interests.wait(wait(5000, "a", "b"))
    with pytest.raises(QuotaExceeded, match=f"one has {MAX_LISTENING}"):
        interests.watch(m.Watch(5001, ""))
    assert interests.end_wait(5000)
    interests.watch(m.Watch(5001, ""))
    interests.watch(m.Watch(5002, ""))


def test_end_of_what_is_not_there_frees_nothing() -> None:
    interests = Interests(Accounts(Totals(1)).of(0).listening)
    for number in range(MAX_LISTENING):
        interests.watch(m.Watch(number, ""))
    interests.end_watch(MAX_LISTENING)
    assert not interests.end_wait(0)  # a watch has this number
    with pytest.raises(QuotaExceeded):
        interests.watch(m.Watch(MAX_LISTENING, ""))


def test_clear_leaves_nothing() -> None:
    interests = Interests(Accounts(Totals(1)).of(0).listening)
    interests.watch(m.Watch(1, ""))
    interests.wait(wait(1, *map(str, range(MAX_LISTENING - 1))))
    interests.clear()
    assert (len(interests), interests.watches("0"), interests.waits("0")) == (0, [], [])
    interests.wait(wait(1, *map(str, range(MAX_LISTENING))))
