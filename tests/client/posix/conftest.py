"""Fixtures of the tests of `shmclient.posix`: an object, and addresses that nothing has had."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator

import pytest

from posix_support import CONTENT, PAGE, SHM
from shmclient import posix

# Above the window of the hosts of other tests and the heap of AddressSanitizer, below what the kernel gives.
PLACES = itertools.count(0x680000000000, 1 << 30)


@pytest.fixture
def base() -> int:
    """An address that nothing has had before."""
    return next(PLACES)


@pytest.fixture(params=["memfd", "shm"])
def fd(request: pytest.FixtureRequest) -> Iterator[int]:
    """An object of four pages, each full of its number."""
    descriptor = posix.memfd_create("test", backend=request.param)
    os.pwrite(descriptor, CONTENT, 0)
    yield descriptor
    posix.close(descriptor)


@pytest.fixture(params=["memfd", "shm"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def two_pages(backend: str) -> Iterator[int]:
    """A sealable object of two pages, all zero."""
    descriptor = posix.memfd_create("test", backend=backend)
    posix.ftruncate(descriptor, 2 * PAGE)
    yield descriptor
    posix.close(descriptor)


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nothing has, and that nothing has afterwards."""
    name = f"shmhost-test-{secrets.token_hex(8)}"
    yield f"/{name}"
    (SHM / name).unlink(missing_ok=True)
