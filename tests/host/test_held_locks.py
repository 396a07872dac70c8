"""Clients that hold the lock of an object: a host that is killed meanwhile is in the way of no other."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shmclient
from arena_support import ARENA_READY, SIZE, ArenaPeer
from held_support import blocked_write, is_held_up, spare_of
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from support import wait_until
from takeover_support import line_of_hosts


def create(peer: ArenaPeer, seal: str, backend: str, max_size: int = 0) -> tuple[int, int]:
    request = m.Create(2, "held", 4096, seal, backend, 0o600, True, max_size=max_size)
    created, (descriptor,) = peer.ask(request)
    assert isinstance(created, m.Created)
    return created.region, descriptor


def publish(peer: ArenaPeer, region: int) -> None:
    published, fds = peer.ask(m.Publish(3, region, 1, 4096, 0, 0, 0, 0))
    assert isinstance(published, m.Published)
    close_all(fds)


@contextmanager
def creation(peer: ArenaPeer, backend: str = "memfd") -> Iterator[None]:
    region, descriptor = create(peer, "full", backend)
    with blocked_write(descriptor):
        peer.send(pack(m.Publish(3, region, 1, 4096, 0, 0, 0, 0)))
        yield
    os.close(descriptor)


@contextmanager
def named_creation(peer: ArenaPeer) -> Iterator[None]:
    with creation(peer, "shm"):
        yield


@contextmanager
def name_to_remove(peer: ArenaPeer) -> Iterator[None]:
    """One whose removal holds the lock of its folder, too, which the next host looks into."""
    region, descriptor = create(peer, "full", "shm")
    with blocked_write(descriptor):
        peer.send(pack(m.Abort(4, region, False)))
        yield
    os.close(descriptor)


@contextmanager
def filled_spare(peer: ArenaPeer) -> Iterator[None]:
    size = 3 * mmap.PAGESIZE  # all of it: the kernel ends a thread that would cut it (Linux 6.18)
    region, descriptor = spare_of(peer, "held", size)
    with blocked_write(descriptor):
        peer.send(pack(m.Assign(3, region, "held", 0o600, True, size, size, 0, 0, ())))
        yield
    os.close(descriptor)


@contextmanager
def arena(peer: ArenaPeer) -> Iterator[None]:
    owned = peer.make("held", max_size=4 * SIZE)
    with blocked_write(owned.memory):
        owned.send(ARENA_READY)
        yield


@contextmanager
def growing_region(peer: ArenaPeer) -> Iterator[None]:
    region, descriptor = create(peer, "shared", "memfd", 1 << 20)
    publish(peer, region)
    with blocked_write(descriptor):
        peer.send(pack(m.Resize(4, region, 8192)))
        yield
    os.close(descriptor)


ROADS: list[Callable[[ArenaPeer], object]] = [
    creation,
    named_creation,
    name_to_remove,
    filled_spare,
    arena,
    growing_region,
]


@pytest.mark.parametrize("hold", ROADS)
def test_next_host_serves_while_a_thread_of_a_killed_one_waits(
    hold: Callable[[ArenaPeer], object], folder: Path
) -> None:
    with (
        line_of_hosts(folder / "h") as line,
        shmclient.connect(line.path) as shm,
        ArenaPeer(line.path) as peer,
    ):
        shm.put("x", b"1").close()
        first = line.child
        with shm.open("x") as region, hold(peer):
            wait_until(lambda: is_held_up(first.pid))
            first.kill()
            assert peer.is_dropped()
            line.child = line._start()
            assert (shm.stat("x").number, bytes(shm.get("x"))) == (region.number, b"1")
            shm.put("x", b"2").close()
            assert shm.open("x").generation > region.generation
        first.communicate(timeout=30)
