"""A member of a fleet that sends what no host would: nothing of it is believed, and no host stumbles."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path
from typing import Any

import msgpack
import pytest

import shmclient
from benchmarks.fleet_hosts import WINDOW, free_ports
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.hashing import leaf, root_of
from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import MIB
from tests.fleet_hostile import Hostile, hostile
from tests.fleet_support import metrics_of, start, statuses, write_plan
from tests.support import wait_until

pytest.importorskip("zenoh", reason="the extra `fleet` is not installed")

SHARED = {"export": ["models/"], "import": ["models/"]}


def show_card(peer: Hostile) -> str:
    """Give a peer the card of a host that fits; return the address of that host."""
    wait_until(lambda: peer.hosts(), 30)
    (address,) = peer.hosts()[:1]
    card = peer.ask(address, "card", peer.address)
    mine = (*card[:1], peer.address, "evil", *card[3:7], None, False, 0)
    peer.answers["card"] = lambda _: msgpack.packb(mine)
    return address


def row_of(plan: str, name: str) -> dict[str, Any]:
    """Return what a host says about itself; the peer has a row, too."""
    return next(row for row in statuses(plan) if row["name"] == name)


def is_unharmed(host: HostProcess) -> bool:
    return not any("a part of its work" in line or "Traceback" in line for line in host.log)


def test_wrong_chunks_are_asked_of_another_host(tmp_path: Path) -> None:
    ports = free_ports(3)
    value = os.urandom(20 * MIB)
    with start(write_plan(tmp_path, "a", ports[0], (), **SHARED)) as first, hostile(ports[0]) as peer:
        with shmclient.connect(first.socket_path) as shm:
            shm.put("models/x", value)
        address = show_card(peer)
        wait_until(lambda: peer.ask(address, "catalogue", peer.address, "")[2])
        tree = peer.ask(address, "catalogue", peer.address, "")[2][0][-1]
        peer.answers["catalogue"] = lambda _: msgpack.packb((0, "", (("has", tree),)))
        peer.answers["chunk"] = lambda _: os.urandom(MIB)
        peer.answers["leaves"] = lambda _: os.urandom(32 * 21)
        peer.appear()
        plan = write_plan(tmp_path, "b", ports[1], ports[:1], **SHARED)
        with start(plan, metrics=f"127.0.0.1:{ports[2]}") as second:
            with shmclient.connect(second.socket_path) as shm:
                data = shm.get("models/x", wait=60)
                assert hashlib.sha256(data).digest() == hashlib.sha256(value).digest()
            wait_until(lambda: {"chunk", "leaves"} & set(peer.asked))
            assert metrics_of(ports[2])["shmhost_fleet_corrupt"] >= 1
            assert is_unharmed(second)


def announcement(name: str, **values: Any) -> Announcement:
    """Return an announcement of 5,000 bytes that is right but for some values."""
    data = b"e" * 5000
    address = WINDOW[0] + WINDOW[1] // 8 * 7  # in the last slice
    usual = Announcement(
        *(name, 1, address, 5000, 1, 5000, 0, 0, 0, 0, 1, 0o644, "root"), root_of(5000, [leaf(data)])
    )
    return usual._replace(**values)


def test_announcements_of_what_cannot_be_here_are_refused_one_by_one(tmp_path: Path) -> None:
    ports = free_ports(1)
    plan = write_plan(tmp_path, "a", ports[0], (), slice=0, **SHARED)
    with start(plan) as host, hostile(ports[0]) as peer, shmclient.connect(host.socket_path) as shm:
        own = shm.put("models/own", b"mine").address
        entries = [
            announcement("models/good"),
            announcement("models/overlaps"),  # the same address
            announcement("models/own", address=WINDOW[0] + WINDOW[1] // 8 * 6),
            announcement("models/inside", address=own),
            announcement("models/outside", address=0x7F0000000000),
            announcement("models/root", address=WINDOW[0] + WINDOW[1] // 2, root=0x1000, root_size=8),
            announcement("models/tree", address=WINDOW[0] + WINDOW[1] // 4 * 3, tree=b"t" * 32),
            announcement("models/large", address=WINDOW[0] + WINDOW[1] // 4, room=2**33, data_size=1),
            announcement("models/late", address=WINDOW[0] + WINDOW[1] // 8 * 5, generation=2**53 - 1),
        ]
        peer.answers["catalogue"] = lambda _: msgpack.packb(
            (0, "", tuple(("new", *each) for each in entries))
        )
        peer.answers["leaves"] = lambda values: leaf(b"e" * 5000)
        peer.answers["chunk"] = lambda values: b"e" * 5000
        show_card(peer)
        peer.appear()
        assert bytes(shm.get("models/late", wait=60)) == b"e" * 5000
        wait_until(lambda: "models/good" in shm or "models/overlaps" in shm, 60)
        copies = [name for name in ("models/good", "models/overlaps") if name in shm]
        assert len(copies) == 1
        assert bytes(shm.get(copies[0])) == b"e" * 5000
        refused = {each.name for each in entries} - {*copies, "models/late"}
        wait_until(lambda: refused == {*(row := row_of(plan, "a"))["failed"], *row["conflicts"]}, 60)
        assert {info.name for info in shm.list()} == {*copies, "models/late", "models/own"}
        assert bytes(shm.get("models/own")) == b"mine"
        assert shm.stat("models/late").mode == 0o404
        assert shm.put("models/own", b"mine again").generation < 2**49
        assert is_unharmed(host)


def test_catalogue_that_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    ports = free_ports(1)
    plan = write_plan(tmp_path, "a", ports[0], (), slice=0, **SHARED)
    last = announcement("models/last")
    with start(plan) as host, hostile(ports[0]) as peer, shmclient.connect(host.socket_path) as shm:

        def breaks_off(_: tuple[Any, ...]) -> bytes:
            del peer.answers["catalogue"]  # the next question is refused
            return bytes(msgpack.packb((0, "models/a", ())))

        def goes_on(values: tuple[Any, ...]) -> bytes:
            first = (0, "models/a", ()), (0, "", (("new", *last),))
            return bytes(msgpack.packb(first[values[1] == "models/a"]))

        peer.answers["leaves"] = lambda values: leaf(b"e" * 5000)
        peer.answers["chunk"] = lambda values: b"e" * 5000
        peer.answers["catalogue"] = breaks_off
        show_card(peer)
        peer.appear()
        wait_until(lambda: peer.asked.count("catalogue") >= 2, 30)
        peer.answers["catalogue"] = goes_on
        assert bytes(shm.get("models/last", wait=30)) == b"e" * 5000
        assert is_unharmed(host)


def test_bytes_of_chance_harm_no_host(tmp_path: Path) -> None:
    ports = free_ports(1)
    chance = random.Random(15)
    plan = write_plan(tmp_path, "a", ports[0], (), **SHARED)
    with start(plan) as host, hostile(ports[0]) as peer, shmclient.connect(host.socket_path) as shm:
        shm.put("models/x", b"x" * 5000)
        address = show_card(peer)
        peer.appear()
        kinds = ["card", "claim", "catalogue", "leaves", "chunk", "new", "gone", "has", "status", "", None, 1]
        items = [None, -1, 0, 1, 2**63, "", "models/x", "x" * 300, b"t" * 32, (), {}, peer.address, True]
        for _ in range(300):
            values = [chance.choice(kinds), *chance.choices(items, k=chance.randrange(12))]
            data = msgpack.packb(values)
            if chance.random() < 0.3:
                data = chance.randbytes(chance.randrange(1, 60))
            peer.tell(data)
            peer.ask(address, data)
        assert peer.ask(address, b"x" * 70_000).startswith("a question has")
        assert peer.ask(address, "card", peer.address)[1] == address
        assert bytes(shm.get("models/x")) == b"x" * 5000
        assert is_unharmed(host)
