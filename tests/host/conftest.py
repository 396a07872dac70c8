"""Fixtures of the host's tests: short folders, a service manager that listens, a host without sockets."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_support import Board
from manager_support import Manager
from service_support import Service, service
from session_support import World
from support import WatchedHost


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose name is short enough for sockets, whatever the test is called."""
    with tempfile.TemporaryDirectory(prefix="shm-") as name:
        yield Path(name)


@pytest.fixture
def path_manager(folder: Path) -> Iterator[Manager]:
    manager = Manager(str(folder / "notify"))
    with manager.socket:
        yield manager


@pytest.fixture
def manager(folder: Path) -> Iterator[Service]:
    """A stand-in for systemd, which runs a host and stores its descriptors."""
    with service(folder) as each:
        each.start()
        yield each


@pytest.fixture
def board(host: WatchedHost) -> Iterator[Board]:
    board = Board(host.socket_path)
    yield board
    board.close()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.hub.registry.close()
