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

        def announced() -> list[Announcement]:
            entries = peer.ask(address, "catalogue", peer.address, "")[2]
            return [each for entry in entries if not (each := Announcement(*entry[1:])).is_early]

        wait_until(announced)
        tree = announced()[0].tree
        peer.answers["catalogue"] = lambda _: msgpack.packb((0, "", (("has", tree),)))
        peer.answers["chunk"] = lambda _: os.urandom(MIB)
        peer.answers["leaves"] = lambda _: os.urandom(32 * 21)
        peer.appear()
        # Not so fast that it has all of the first one before it knows of the second.
        plan = write_plan(tmp_path, "b", ports[1], ports[:1], bandwidth="16M", **SHARED)
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


TWO = MIB + 5000  # bytes of two chunks, which are few enough to come over zenoh


def show_early(peer: Hostile, early: Announcement, data: bytes) -> None:
    """Announce what is not hashed, and send its chunks."""
    peer.answers["catalogue"] = lambda _: msgpack.packb((0, "", (("new", *early),)))
    peer.answers["chunk"] = lambda values: data[values[3] * MIB :][:MIB]
    show_card(peer)
    peer.appear()


@pytest.mark.parametrize("lie", ["chunk", "tree"])
def test_nothing_is_published_if_what_came_early_has_another_hash_than_is_announced_later(
    tmp_path: Path, lie: str
) -> None:
    ports = free_ports(1)
    plan = write_plan(tmp_path, "a", ports[0], (), slice=0, **SHARED)
    data = os.urandom(TWO)
    leaves = [leaf(data[:MIB]), leaf(data[MIB:])]
    early = announcement("models/x", room=TWO, data_size=TWO, is_early=True, tree=os.urandom(32))
    with start(plan) as host, hostile(ports[0]) as peer, shmclient.connect(host.socket_path) as shm:
        peer.answers["leaves"] = lambda _: b"".join(leaves)
        show_early(peer, early, data if lie == "tree" else data[:-1] + b"?")
        wait_until(lambda: peer.asked.count("chunk") == 2)
        tree = root_of(TWO, leaves) if lie == "chunk" else b"t" * 32
        peer.tell(msgpack.packb(("new", 1, *early._replace(tree=tree, is_early=False))))
        wait_until(lambda: row_of(plan, "a")["failed"] != {})
        assert "all that have 'models/x' send something else" in row_of(plan, "a")["failed"]["models/x"]
        assert "models/x" not in shm
        assert is_unharmed(host)


def test_what_came_early_is_published_with_its_hash_and_without_one_leaves_nothing(tmp_path: Path) -> None:
    ports = free_ports(2)
    plan = write_plan(tmp_path, "a", ports[0], (), slice=0, **SHARED)
    data = os.urandom(TWO)
    early = announcement("models/x", room=TWO, data_size=TWO, is_early=True, tree=os.urandom(32))
    whole = early._replace(tree=root_of(TWO, [leaf(data[:MIB]), leaf(data[MIB:])]), is_early=False)

    def figure(name: str) -> float:
        return metrics_of(ports[1])[f"shmhost_fleet_{name}"]

    with (
        start(plan, metrics=f"127.0.0.1:{ports[1]}") as host,
        shmclient.connect(host.socket_path) as shm,
    ):
        with hostile(ports[0]) as peer:
            show_early(peer, early, data)
            wait_until(lambda: figure("received_bytes") == TWO)
            assert (figure("transfers"), "models/x" in shm) == (1, False)
            peer.tell(msgpack.packb(("gone", 1, "models/x", 1)))
            wait_until(lambda: figure("transfers") == 0)
            assert figure("replica_bytes") == 0
            # The hash of the second one was missed: only that of the third one is waited for.
            peer.tell(msgpack.packb(("new", 2, *early._replace(generation=2))))
            wait_until(lambda: figure("received_bytes") == 2 * TWO)
            peer.tell(msgpack.packb(("new", 3, *early._replace(generation=3))))
            wait_until(lambda: figure("received_bytes") == 3 * TWO)
            peer.tell(msgpack.packb(("new", 4, *whole._replace(generation=3))))
            assert bytes(shm.get("models/x", wait=30)) == data
            assert peer.asked.count("leaves") == 0
            other = WINDOW[0] + WINDOW[1] // 8 * 6
            peer.tell(msgpack.packb(("new", 5, *early._replace(name="models/y", address=other))))
            wait_until(lambda: figure("received_bytes") == 4 * TWO)
        wait_until(lambda: figure("hosts") == 0, 30)  # it has died, and comes back with nothing
        assert figure("transfers") == 1
        with hostile(ports[0], process="f") as peer:
            show_card(peer)
            peer.appear()
            wait_until(lambda: figure("transfers") == 0, 30)
            wait_until(lambda: figure("replica_bytes") == 0)
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
