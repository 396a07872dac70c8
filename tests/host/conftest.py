"""Fixtures of the host's tests: a short folder, and a service manager that listens there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_support import ArenaPeer, Board
from manager_support import Manager
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
def owner(host: WatchedHost) -> Iterator[ArenaPeer]:
    with ArenaPeer(host.socket_path) as peer:
        yield peer


@pytest.fixture
def reader(host: WatchedHost) -> Iterator[ArenaPeer]:
    with ArenaPeer(host.socket_path) as peer:
        yield peer


@pytest.fixture
def board(host: WatchedHost) -> Iterator[Board]:
    board = Board(host.socket_path)
    yield board
    board.close()
