"""The host frees what ends by itself: its garbage collector hardly ever runs, see `shmhost serve`."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator

import pytest

import shmclient
from arena_support import ArenaPeer
from shmhost.core.arenas import Arena
from shmhost.core.ledgers import Ledger
from shmhost.core.owning import Ownership
from shmhost.core.regions import Region
from shmhost.core.session import Session
from shmhost.serving.arena_link import ArenaLink
from shmhost.serving.link import Link
from shmhost.serving.outbox import Outbox
from support import RawPeer, WatchedHost, wait_until

KINDS = (Link, Session, Outbox, Region, Arena, Ledger, Ownership, ArenaLink)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[type]:
    return Counter(type(thing) for thing in gc.get_objects() if type(thing) in KINDS)


@pytest.mark.usefixtures("no_collector")
def test_clients_and_regions_that_have_gone_are_no_garbage(host: WatchedHost, shm: shmclient.Client) -> None:
    before = alive()
    for number in range(3):
        with shmclient.connect(host.socket_path) as other:
            other.put("a", bytes(100_000 * (number % 2 + 1))).close()
            other.put("a", b"small").close()
            with pytest.raises(shmclient.RegionNotFound):
                other.get("none")
            other.unlink("a")
        with RawPeer(host.socket_path, greet=False) as peer:
            peer.send(b"\xff" * 100)
            assert peer.is_dropped()
    assert before[Link] == 1
    wait_until(lambda: alive() == before, shown=alive)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("way", ["control", "owner", "reader", "garbage", "never ready"])
def test_arenas_that_have_gone_are_no_garbage(host: WatchedHost, way: str) -> None:
    before = alive()
    with ArenaPeer(host.socket_path) as owner, ArenaPeer(host.socket_path) as reader:
        owned = owner.make(max_size=1 << 20, keep=False)
        if way != "never ready":
            assert owned.ready() == 0
            reader.open("camera/front")
            assert owned.grow(1 << 18)[0] == 0
        if way == "control":
            owned.leave()
        elif way == "garbage":
            owned.control.send(b"x")
        elif way == "owner":
            owner.socket.close()
        else:
            reader.socket.close()
    wait_until(lambda: alive() == before, shown=alive)
