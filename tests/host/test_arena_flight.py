"""Owners that read late: what waits for them, and that nobody else waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_support import SIZE, ArenaPeer, peers
from shmhost.serving import server
from shmhost.settings.totals import totals_of
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_FORGET, ARENA_GROW, ARENA_LEDGER
from support import WatchedHost, count_descriptors, wait_until, watched_host

LIMIT = 64  # descriptors in flight, of a uid; a quarter of it in control sockets


@pytest.fixture
def narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return where a host shall listen, on a system that lets few descriptors be in flight."""
    narrowed = {"unread": LIMIT, "unread_by_owners": LIMIT // 4}
    monkeypatch.setattr(server, "totals_of", lambda config, _slices: totals_of(config)._replace(**narrowed))
    return str(tmp_path / "narrow.sock")


def test_owner_hears_in_the_order_of_what_happened(host: WatchedHost) -> None:
    with ArenaPeer(host.socket_path) as owner, peers(host.socket_path, 40) as readers:
        owned = owner.publish(max_size=1 << 20)
        numbers = [reader.open("camera").ledger[0] for reader in readers]
        for reader in readers[:20]:
            reader.close()
        wait_until(lambda: host.counts()["ledgers"] == 20)
        owned.send(ARENA_GROW, 2 * SIZE)
        notes, kind = [], 0
        while kind != ARENA_GROW:
            note = owned.receive()
            descriptors.close_all(note.descriptors)
            kind = note.kind
            notes.append((kind, note.number))
        assert notes[-1] == (ARENA_GROW, 0)
        joined = [number for kind, number in notes if kind == ARENA_LEDGER]
        gone = {number for kind, number in notes if kind == ARENA_FORGET}
        assert joined == sorted(joined)
        assert set(joined) >= set(numbers[20:])
        assert gone == set(joined) & set(numbers[:20])


def test_owner_that_reads_nothing_costs_a_few_descriptors_in_flight(host: WatchedHost) -> None:
    """The others wait in the host, and their descriptors with them."""
    with ArenaPeer(host.socket_path) as owner, peers(host.socket_path, 100) as readers:
        owned = owner.publish()
        for reader in readers:
            reader.open("camera")
        share = host.host._flight.owners_share(0)
        assert 2 <= share.counter.used <= 40
        for _ in readers:
            owned.ledger()
        wait_until(lambda: host.call(lambda: share._look(100)) == [])
        assert share.counter.used == 0


def test_idle_owners_keep_no_other_from_hearing(narrow: str) -> None:
    """One message for each arena is let through, whatever others of the uid have left unread."""
    with (
        watched_host(narrow) as host,
        ArenaPeer(narrow) as owner,
        ArenaPeer(narrow) as first,
        ArenaPeer(narrow) as second,
    ):
        arenas = [owner.publish(f"arena/{i}") for i in range(30)]
        for reader in (first, second):
            for i in range(30):
                reader.open(f"arena/{i}")
        assert isinstance(first.put("other"), m.Published)
        assert host.counts()["ledgers"] == 2
        numbers = [arenas[-1].ledger(), arenas[-1].ledger()]
        assert numbers == sorted(numbers)
        assert arenas[-1].grow(SIZE) == (0, SIZE)


def test_unread_descriptors_of_an_arena_that_ended_still_count(narrow: str) -> None:
    with watched_host(narrow) as host, ArenaPeer(narrow) as owner, ArenaPeer(narrow) as reader:
        owned = owner.publish(keep=False)
        reader.open("camera")
        share = host.host._flight.owners_share(0)
        owned.control.send(b"x")
        wait_until(lambda: host.counts()["arena links"] == 0)
        assert share.counter.used == 2
        assert owned.is_ended()
        wait_until(lambda: share.counter.used == 0)


def test_host_that_ends_leaves_nothing_of_its_arenas(tmp_path: Path) -> None:
    before = count_descriptors()
    path = str(tmp_path / "ending.sock")
    with watched_host(path):
        owner, reader = ArenaPeer(path), ArenaPeer(path)
        owned = owner.publish(max_size=1 << 20)
        owner.make("other")
        reader.open("camera")
    assert owned.ledger()
    assert owned.is_ended()
    owner.close()
    reader.close()
    assert count_descriptors() == before
