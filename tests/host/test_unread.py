"""What a peer has not read, by the kernel's word, at the limits."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest

from shmhost.core.accounts import Accounts
from shmhost.core.peers import Peer
from shmhost.core.resources import Totals
from shmhost.core.shares import GUARANTEES
from shmhost.serving.unread import MAX_LOOKS, MAX_PER_CONNECTION, Flight, Unread
from shmprotocol.wire import descriptors


class Wire:
    """A connection with its count; it says what was heard of pressure."""

    def __init__(self, flight: Flight, uid: int = 7) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.pressed = 0
        self.unread = Unread(self.ours, flight.share(uid), self._press)

    def _press(self) -> None:
        self.pressed += 1

    def send(self, count: int) -> None:
        descriptors.send(self.ours, b"x" * 100, [self.ours.fileno()] * count, 0)
        self.unread.add(count)

    def send_behind(self, size: int = 300) -> None:
        assert self.unread.send_behind(lambda: self.ours.send(bytes(size))) == size

    def read(self, size: int = 100) -> None:
        descriptors.close_all(socket.recv_fds(self.theirs, size, 64)[1])

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def flight_of(limit: int) -> Flight:
    """Return a flight in which two uids have a limit each, which is booked for them."""
    accounts = Accounts(Totals(1, unread=limit * GUARANTEES))
    for uid in (7, 8):
        accounts.of(uid).connect(Peer(uid, uid))
        accounts.of(uid).unread.restrict(limit, "a rule")
    return Flight(accounts)


@pytest.fixture
def wires() -> Iterator[list[Wire]]:
    """Three connections of one uid and one of another, where a uid may have 256."""
    flight = flight_of(2 * MAX_PER_CONNECTION)
    every = [Wire(flight), Wire(flight), Wire(flight), Wire(flight, uid=8)]
    yield every
    for wire in every:
        wire.close()


def test_descriptors_are_unread_until_they_are_read(wires: list[Wire]) -> None:
    wire = wires[0]
    assert wire.unread.settle()
    wire.send(3)
    wire.send(2)
    wire.read()
    assert (wire.unread.settle(), wire.unread.count) == (False, 5)
    wire.read()
    assert (wire.unread.settle(), wire.unread.count) == (True, 0)


def test_connection_may_have_two_full_frames_unread(wires: list[Wire]) -> None:
    wire = wires[0]
    wire.send(64)
    wire.send(63)
    assert wire.unread.admits(1)
    assert not wire.unread.admits(2)
    assert not wire.unread.make_room(2)
    wire.read()
    assert not wire.unread.make_room(2)
    wire.read()
    assert wire.unread.make_room(2)


def test_uid_may_have_its_limit_unread_and_another_uid_as_much(wires: list[Wire]) -> None:
    for wire in wires[:2]:
        wire.send(64)
        wire.send(64)
    assert not wires[2].unread.admits(1)
    assert not wires[2].unread.make_room(1)
    assert [wire.pressed for wire in wires] == [1, 1, 0, 0]
    assert wires[3].unread.admits(128)
    for _ in range(2):
        wires[0].read()
    assert wires[2].unread.make_room(128)
    assert not wires[2].unread.make_room(129)


@pytest.mark.parametrize("size", [1, 100, 300, 1000, 5000, 50_000])
def test_bytes_behind_descriptors_that_are_read_are_no_debt(size: int, wires: list[Wire]) -> None:
    """Such as events that a client does not read for now."""
    wire = wires[0]
    wire.send(2)
    wire.send_behind(size)
    wire.send_behind(1)
    assert not wire.unread.settle()
    wire.read()
    assert wire.unread.settle()


def test_descriptors_behind_bytes_are_a_debt(wires: list[Wire]) -> None:
    wire = wires[0]
    wire.send(1)
    wire.send_behind(5000)
    wire.send(1)
    wire.read()
    wire.read(5000)
    assert not wire.unread.settle()
    wire.read()
    assert wire.unread.settle()


@pytest.mark.parametrize("read", [True, False])
def test_closed_connection_counts_until_its_peer_reads_or_closes(
    read: bool, wires: list[Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhost.serving.unread.LINGER_S", 0.001)
    wire, other = wires[:2]

    async def close() -> None:
        closed = asyncio.Event()
        wire.unread.close(closed.set)
        assert not closed.is_set()
        assert not other.unread.admits(65)
        assert not other.unread.make_room(65)
        wire.read() if read else wire.theirs.close()
        await closed.wait()

    wire.send(64)
    other.send(64)
    other.send(64)
    for _ in range(2):
        other.read()
    wires[2].send(64)
    wires[2].send(64)
    asyncio.run(close())
    assert (wire.pressed, wire.unread.count) == (0, 0)
    assert other.unread.admits(65)


def test_connection_is_closed_at_once_when_all_is_read(wires: list[Wire]) -> None:
    wire = wires[0]
    wire.send(1)
    wire.read()
    wire.unread.close(wire.ours.close)
    assert wire.ours.fileno() == -1
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(wire.ours.fileno())


def test_those_that_have_read_are_cleared_before_the_limit_of_their_uid_is_reached() -> None:
    flight = flight_of(20)
    wires = [Wire(flight) for _ in range(15)]
    for wire in wires[:10]:
        wire.send(1)
        wire.read()
    assert flight.share(7).counter.used == 10
    wires[10].send(1)
    assert flight.share(7).counter.used == 9  # two were looked at
    for wire in wires[11:]:
        wire.send(1)
    assert flight.share(7).counter.used <= 11
    for wire in wires:
        wire.close()


def test_nobody_looks_while_less_than_half_of_all_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look takes as long as a tenth of an attach."""
    accounts = Accounts(Totals(1, unread=20 * GUARANTEES))
    accounts.of(7).connect(Peer(7, 7))
    flight = Flight(accounts)
    wires = [Wire(flight) for _ in range(11)]
    looks: list[int] = []
    monkeypatch.setattr("shmhost.serving.unread._queued", lambda _sock: looks.append(1) or 1 << 20)
    for wire in wires[:9]:
        wire.send(64)
    assert (len(looks), flight.share(7).counter.pool.booked) == (0, 640)  # of 1,280, 64 of these for uid 0
    for wire in wires[9:]:
        wire.send(1)
    assert len(looks) == 2
    monkeypatch.undo()
    for wire in wires:
        wire.close()


def test_looks_are_rare_when_each_of_many_connections_owes_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a crowd that attaches in turn: what one has read is cleared, and the next one owes as much."""
    flight = flight_of(20)
    wires = [Wire(flight) for _ in range(18)]
    looks: list[int] = []
    monkeypatch.setattr("shmhost.serving.unread._queued", lambda _sock: looks.append(1) or 1 << 20)
    for wire in wires:
        wire.send(1)
    assert len(looks) == 2  # of 8 sends above the half
    monkeypatch.undo()
    for wire in wires:
        wire.close()


def test_a_look_under_pressure_is_at_the_next_few_alone() -> None:
    flight = flight_of(3 * MAX_LOOKS)
    wires = [Wire(flight) for _ in range(2 * MAX_LOOKS)]
    for wire in wires:
        wire.send(1)
    flight.share(7).press()
    assert sum(wire.pressed for wire in wires) == MAX_LOOKS
    flight.share(7).press()
    assert [wire.pressed for wire in wires] == [1] * len(wires)
    for wire in wires:
        wire.close()
