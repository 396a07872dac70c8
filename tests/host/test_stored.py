"""The store of a service manager: the order of changes, limits, shares. Without a manager."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_support import World
from shmhost.core.records import NoBook
from shmhost.core.regions import Region
from shmhost.core.stored import MAX_STORED, Stored, entry_of, is_entry, number_of
from shmhost.core.window import STEP, Allocator
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ChangeKind, State


class Book(NoBook):
    def enter(self, region: Region) -> None:
        region.record = region.number


class Shelf:
    """A host's core, and a manager that has what it was told to keep."""

    def __init__(self, room: int) -> None:
        self.world = World()
        self.registry = self.world.hub.registry
        self.registry.book = Book()
        self.registry.allocator = Allocator(((1 << 40, 1024 * STEP),))
        self.registry.note = self._note
        self.stored = Stored(self.registry)
        self.stored.open(room)
        self.client = self.world.client()
        self.kept: dict[str, int] = {}
        self.told: list[tuple[str, bool]] = []
        self.wakes = 0
        self.stored.wake = self._count

    def _count(self) -> None:
        self.wakes += 1

    def _note(self, kind: ChangeKind | State, region: Region) -> None:
        if kind in (ChangeKind.PUBLISHED, ChangeKind.UNLINKED):
            self.stored.touch(region.name)

    def put(self, *names: str, uid: int = 7) -> None:
        client = self.client if uid == 7 else self.world.client(uid=uid)
        for name in names:
            client.publish(name)

    def unlink(self, name: str) -> None:
        self.client.say(m.Unlink(3, name))

    def tell(self, most: int = 1 << 30) -> None:
        """Tell so many changes, of one round."""
        self.stored.begin()
        while most > 0 and (change := self.stored.next()) is not None:
            most -= 1
            self.told.append((change.entry, change.region is not None))
            if change.region is None:
                del self.kept[change.entry]
            else:
                assert change.entry not in self.kept
                self.kept[change.entry] = change.region.number
            assert len(self.kept) <= self.stored.room
            self.stored.done(change)

    def names(self) -> set[str]:
        return {self.registry.regions[number].name for number in self.kept.values()}

    def taken(self, uid: int = 7) -> int:
        return self.registry.accounts.of(uid).stored.used


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    each = Shelf(8)
    yield each
    each.registry.close()


def test_next_generation_is_there_before_the_older_one_goes(shelf: Shelf) -> None:
    shelf.put("x")
    shelf.tell()
    shelf.put("x")
    shelf.tell()
    assert [is_added for _, is_added in shelf.told] == [True, True, False]
    assert shelf.told[2][0] == shelf.told[0][0]
    assert shelf.names() == {"x"}


def test_older_one_goes_first_when_the_store_is_full(shelf: Shelf) -> None:
    shelf.put(*"abcdefgh")
    shelf.tell()
    shelf.put("c")
    shelf.tell()
    assert [is_added for _, is_added in shelf.told[8:]] == [False, True]
    assert shelf.names() == set("abcdefgh")


def test_generations_between_are_not_told(shelf: Shelf) -> None:
    for _ in range(100):
        shelf.put("x")
    shelf.tell()
    assert len(shelf.told) == 1


def test_name_that_changes_in_a_round_has_its_turn_in_the_next(shelf: Shelf) -> None:
    shelf.put("a", "b")
    shelf.tell(1)
    shelf.put("a")  # it was told
    shelf.put("b")  # it was not
    shelf.tell()
    assert len(shelf.told) == 2
    assert shelf.told[1][0] == entry_of(shelf.registry.current["b"].number)
    assert shelf.stored.has_more
    shelf.tell()
    assert shelf.names() == {"a", "b"}
    assert not shelf.stored.has_more


def test_name_that_came_and_went_is_not_told(shelf: Shelf) -> None:
    for number in range(100):
        shelf.put(f"n{number}")
        shelf.unlink(f"n{number}")
    shelf.tell()
    assert shelf.told == []
    assert not shelf.stored.has_more  # nothing is kept of it either, even if the manager takes nothing


def test_wakes_once_until_all_is_told(shelf: Shelf) -> None:
    shelf.put("a", "b", "c")
    assert shelf.wakes == 1
    shelf.tell()
    shelf.put("a")
    assert shelf.wakes == 2


@pytest.mark.parametrize(("names", "left_out"), [(8, 0), (9, 1)])
def test_store_has_exactly_its_room(names: int, left_out: int, shelf: Shelf) -> None:
    shelf.put(*[f"n{number}" for number in range(names)])
    shelf.tell()
    assert (len(shelf.kept), shelf.stored.left_out) == (8, left_out)


def test_name_without_a_place_gets_the_next_one(shelf: Shelf) -> None:
    shelf.put(*"abcdefghi")
    shelf.tell()
    assert "i" not in shelf.names()
    shelf.unlink("a")
    shelf.tell()
    assert shelf.names() == set("bcdefghi")
    assert shelf.stored.left_out == 0


def test_user_leaves_room_for_others() -> None:
    shelf = Shelf(640)
    shelf.put(*[f"n{number}" for number in range(700)], uid=1001)
    shelf.tell()
    assert shelf.taken(1001) == len(shelf.kept) < 640 - 3 * 10  # guarantees of newcomers and of root
    shelf.put(*[f"other{number}" for number in range(10)], uid=1002)
    shelf.tell()
    assert shelf.taken(1002) == 10
    shelf.registry.close()


def test_places_are_given_back(shelf: Shelf) -> None:
    shelf.put("a", "b", uid=1001)
    shelf.tell()
    assert shelf.taken(1001) == 2
    for name in "ab":
        shelf.unlink(name)
    client = shelf.world.client(uid=0)
    for name in "ab":
        client.say(m.Unlink(3, name))
    shelf.tell()
    assert shelf.kept == {}
    assert 1001 not in shelf.registry.accounts.in_use() or not shelf.taken(1001)


def test_region_without_a_record_is_not_told(shelf: Shelf) -> None:
    """The next host could not know what it is."""
    shelf.registry.book = NoBook()
    shelf.put("a")
    shelf.tell()
    assert shelf.told == []


def test_successor_goes_on_where_its_predecessor_was(shelf: Shelf) -> None:
    shelf.put("a", "b", "c")
    shelf.tell()
    shelf.put("a", "d")
    shelf.unlink("b")
    shelf.tell(1)  # of the changes: it has told one, and not yet the others
    room, numbers, strays = shelf.stored.record()
    for account in shelf.registry.accounts:
        account.stored.give(account.stored.used)
    shelf.stored = Stored(shelf.registry)
    shelf.stored.open(room)
    shelf.stored.resume(numbers, strays)
    shelf.tell()
    shelf.tell()
    assert shelf.names() == {"a", "c", "d"}
    assert shelf.taken() == 3


STEPS = st.one_of(
    st.tuples(st.sampled_from(["put", "unlink"]), st.sampled_from("abcdefghijklm")),
    st.tuples(st.just("tell"), st.integers(1, 4)),
)


@given(st.lists(STEPS, max_size=60), st.integers(1, 12))
def test_store_has_what_is_current_whatever_happens(steps: list[tuple[str, Any]], room: int) -> None:
    shelf = Shelf(room)
    for step, argument in steps:
        getattr(shelf, step)(argument)
        assert shelf.taken() <= room
    shelf.tell()  # the end of a round
    shelf.tell()
    assert not shelf.stored.has_more
    current = set(shelf.registry.current)
    assert shelf.names() <= current
    assert len(shelf.kept) == min(room, len(current)) == shelf.taken()
    assert shelf.stored.left_out == len(current) - len(shelf.kept)
    shelf.registry.close()


@pytest.mark.parametrize("number", [1, 0xFF, 2**52 - 1])
def test_entry_is_of_a_number(number: int) -> None:
    assert number_of(entry_of(number)) == number


@pytest.mark.parametrize(
    "entry", ["", "r", "r0", "r01", "rg", "R1", "r1:", " r1", "r1\n", "stored", f"r{2**52:x}"]
)
def test_other_names_are_no_entries(entry: str) -> None:
    assert not is_entry(entry)
    assert number_of(entry) == 0


def test_names_of_all_entries_fit_in_the_environment() -> None:
    """Over MAX_ARG_STRLEN no next host could be started."""
    longest = ":".join([entry_of(2**52 - 1)] * MAX_STORED)
    assert len(f"LISTEN_FDNAMES={'x' * 255}:{longest}") < 128 * 1024
