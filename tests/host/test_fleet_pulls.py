"""Transfers that do not go on: the kernel refuses a chunk, or only a newer generation is left."""

from __future__ import annotations

import errno
import os

import pytest

from shmhost.fleet.announcements import Announcement
from shmhost.fleet.pulls import Pull, Superseded, check_going_on
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
