"""Large objects that a service manager has: who frees them, and when."""

from __future__ import annotations

from shmhost.core.lent import LARGE, Lent
from shmhost.core.objects import Memfd


def memory_object(capacity: int = LARGE) -> Memfd:
    return Memfd.of(capacity, -1)


def test_object_is_kept_from_when_it_is_lent_until_the_manager_has_closed_it() -> None:
    lent, lent_one = Lent(), memory_object()
    lent.lend("r1", lent_one)
    assert lent.takes(lent_one)
    assert lent.recalled() == []
    lent.recall("r1")
    assert lent.recalled() == [lent_one]
    assert lent.recalled() == []
    assert lent.takes(lent_one)  # it was told, and has not closed it yet
    assert lent.end([lent_one]) == [lent_one]
    assert not lent.takes(lent_one)


def test_object_that_is_in_use_still_is_not_freed() -> None:
    """As a superseded region that has leases."""
    lent, lent_one = Lent(), memory_object()
    lent.lend("r1", lent_one)
    lent.recall("r1")
    assert lent.end(lent.recalled()) == []
    assert not lent.takes(lent_one)


def test_small_object_is_not_kept() -> None:
    lent, small, large = Lent(), memory_object(LARGE - 1), memory_object(LARGE)
    lent.lend("r1", small)
    lent.lend("r2", large)
    assert (lent.takes(small), lent.takes(large)) == (False, True)


def test_end_leaves_nothing() -> None:
    lent, objects = Lent(), [memory_object() for _ in range(3)]
    for number, each in enumerate(objects):
        lent.lend(f"r{number}", each)
    assert lent.takes(objects[0])
    lent.recall("r0")
    assert lent.takes(objects[1])
    assert lent.end_all() == objects[:2]
    assert lent.end_all() == lent.recalled() == []
    assert not any(map(lent.takes, objects))
