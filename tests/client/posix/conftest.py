"""Fixtures of the tests of `shmclient.posix`: an object, and addresses that nothing has had."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from posix_support import CONTENT
from shmclient import posix

# Above the window of the hosts of other tests and the heap of AddressSanitizer, below what the kernel gives.
PLACES = itertools.count(0x680000000000, 1 << 30)


@pytest.fixture
def place() -> int:
    """An address that nothing has had before."""
    return next(PLACES)


@pytest.fixture(params=["memfd", "shm"])
def fd(request: pytest.FixtureRequest) -> Iterator[int]:
    """An object of four pages, each full of its number."""
    descriptor = posix.memfd_create("test", backend=request.param)
    os.pwrite(descriptor, CONTENT, 0)
    yield descriptor
    posix.close(descriptor)
