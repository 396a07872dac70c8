"""Transfers that do not go on: the kernel refuses a chunk, or only a newer generation is left."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

from shmhost.fleet.announcements import Announcement
from shmhost.fleet.pulls import Pull, Replica, Superseded, check_going_on, is_of
from shmprotocol.errors import QuotaExceeded

ANNOUNCEMENT = Announcement("x", 1, 0x520000000000, 5000, 1, 5000, 0, 0, 0, 0, 1, 0o644, "root", b"t" * 32)


def test_chunk_that_cannot_be_written_ends_the_transfer_with_the_reason() -> None:
    pull = Pull(ANNOUNCEMENT, "a", 0.0)
    check_going_on(pull, {"a"})
    pull.broken = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(QuotaExceeded, match="no memory for 'x': No space left on device"):
        check_going_on(pull, {"a"})


def test_transfer_ends_when_only_the_next_generation_can_be_had() -> None:
    pull = Pull(ANNOUNCEMENT, "a", 0.0, refusing={"a"})
    check_going_on(pull, {"a"})
    pull.next = ANNOUNCEMENT._replace(generation=2)
    check_going_on(pull, {"a", "b"})
    with pytest.raises(Superseded):
        check_going_on(pull, {"a"})


EARLY = ANNOUNCEMENT._replace(tree=b"e" * 32, is_early=True)


def test_transfer_that_has_begun_early_goes_on_under_the_hash() -> None:
    pull = Pull(EARLY, "a", 0.0, next=EARLY._replace(mode=0o600), refusing={"a"})
    assert not pull.confirm(ANNOUNCEMENT._replace(room=4999))
    assert pull.announcement == EARLY
    assert pull.confirm(ANNOUNCEMENT._replace(mode=0o600))
    assert (pull.announcement.tree, pull.announcement.mode, pull.next) == (b"t" * 32, 0o600, None)
    assert pull.changed.is_set()
    check_going_on(pull, {"a"})


def test_transfer_that_has_begun_early_ends_when_its_hash_comes_no_more() -> None:
    pull = Pull(EARLY, "a", 0.0, next=EARLY._replace(mode=0o600))
    check_going_on(pull, {"a"})
    pull.next = ANNOUNCEMENT._replace(generation=2)
    with pytest.raises(Superseded):
        check_going_on(pull, {"a"})


@pytest.mark.parametrize(("mine", "other"), [(EARLY, ANNOUNCEMENT), (ANNOUNCEMENT, EARLY)])
def test_copy_is_that_of_an_early_announcement_of_its_generation(mine: Any, other: Any) -> None:
    region: Any = None
    replica = Replica(mine, "a", region, [], 0.0)
    assert is_of(replica, other)
    assert not is_of(replica, other._replace(generation=2))
    assert not is_of(replica, ANNOUNCEMENT._replace(tree=b"x" * 32)) or mine.is_early
