"""Fixtures of the client's tests: an async client, an arena and a reader of it, a pinner, a file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import shmclient
import shmclient.aio
from arena_support import CAMERA_SIZE
from pinning_support import CONTENT
from shmclient import Arena, Pinner
from support import WatchedHost


@pytest.fixture
async def ashm(host: WatchedHost, anyio_backend: str) -> AsyncIterator[shmclient.aio.AsyncClient]:
    async with await shmclient.aio.connect(host.socket_path) as client:
        yield client


@pytest.fixture
def arena(shm: shmclient.Client) -> Iterator[Arena]:
    """An arena whose owner is a client of its own, used by any thread."""
    with shm.arena("camera", CAMERA_SIZE, names=2000) as camera:
        yield camera


@pytest.fixture
def other(host: WatchedHost) -> Iterator[shmclient.Client]:
    """Another client, which reads what the owner writes."""
    with shmclient.connect(host.socket_path) as client:
        yield client


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
