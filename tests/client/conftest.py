"""Fixtures of the client's tests: a pinner, a region under construction, a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from pinning_support import CONTENT
from shmclient import Pinner
from support import WatchedHost, watched_host


@pytest.fixture
def pinner() -> Iterator[Pinner]:
    with Pinner() as pinner:
        yield pinner


@pytest.fixture
def builder(shm: shmclient.Client) -> Iterator[shmclient.RegionBuilder]:
    """A builder whose region is given up in the end."""
    with pytest.raises(ZeroDivisionError), shm.create("table", 64 * 1024) as builder:
        yield builder
        1 / 0


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file with content."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def open_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedHost]:
    """A host whose socket lies where every user can reach it."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        with watched_host(f"{folder}/h.sock", socket_mode=0o666) as running:
            yield running
