"""Fixtures: a private host, a client of it, and both async backends."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # before collection ends: its set-up asks the collector, which does not see what is frozen
import pytest

import shmclient
from support import Machine, WatchedHost, watched_host

# `make fuzz` chooses "fuzz": some minutes a test instead of a second. Neither has a deadline, because a
# loaded machine is not a fault of the code.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=20_000,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_finish() -> None:
    """Leave out what lives to the end anyway: each collection below would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_views_of_other_tests() -> None:
    """Collect what earlier tests left in reference cycles: it would keep addresses of its host."""
    gc.collect()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[WatchedHost]:
    with watched_host(str(tmp_path / "host.sock")) as running:
        yield running


@pytest.fixture
def shm(host: WatchedHost) -> Iterator[shmclient.Client]:
    with shmclient.connect(host.socket_path) as client:
        yield client


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    running = Machine(tmp_path / "h.sock")
    running.start()
    yield running
    running.kill()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
