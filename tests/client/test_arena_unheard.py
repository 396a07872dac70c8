"""An owner whose host is killed before it could tell of all readers: what they use is not written again."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import shmclient
from support import Machine

READERS = 20  # more than there are messages in the socket of an owner that does not put


def test_owner_that_cannot_know_its_readers_says_so_when_it_is_full(machine: Machine) -> None:
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(shmclient.connect(machine.path))
        camera = stack.enter_context(owner.arena("camera", size=4 << 20))
        camera["front"] = np.full(100_000, 1, "u1")
        values = []
        for _ in range(READERS):
            reader = stack.enter_context(shmclient.connect(machine.path))
            values.append(reader.get("camera/front"))
        machine.kill()
        with pytest.raises(shmclient.HostGone, match="Create it anew"):
            for number in range(1000):
                camera["front"] = np.full(100_000, number % 256, "u1")
        assert all((value == 1).all() for value in values)
        del values
