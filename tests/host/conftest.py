"""Fixtures of the host's tests: a short folder, and a service manager that listens there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_support import ArenaPeer, Board
from manager_support import Manager
from shmprotocol.wire import messages as m
from support import WatchedHost, wait_until


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
def leaves_nothing(host: WatchedHost) -> Iterator[None]:
    """See that the host is as before when all clients of a test, and the names that they kept, are gone."""
    before = host.counts()
    yield
    with ArenaPeer(host.socket_path) as peer:
        reply, _ = peer.ask(m.List(9, "", ""))
        assert isinstance(reply, m.Listed)
        for info in reply.regions:
            peer.ask(m.Unlink(9, info.name))
    wait_until(lambda: host.is_back_at(before), shown=lambda: (before, host.counts()))


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
