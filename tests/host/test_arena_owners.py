"""The owner of an arena: how it grows and leaves, and what becomes of one that breaks the rules."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from arena_support import SIZE, ArenaPeer, Board, stat
from shmhost.core.resources import Totals
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_GROW
from support import WatchedHost, wait_until, watched_host

pytestmark = pytest.mark.usefixtures("leaves_nothing")


# --- left


def test_owner_is_told_when_a_reader_has_gone(owner: ArenaPeer, host: WatchedHost, board: Board) -> None:
    owned = owner.publish()
    with ArenaPeer(host.socket_path) as reader:
        number = reader.open("camera").ledger[0]
        assert owned.ledger() == number
    assert owned.forgotten() == number
    wait_until(lambda: board.line(owned.made.line).ledgers == 2)


def test_word_counts_what_the_owner_gets(owner: ArenaPeer, host: WatchedHost, board: Board) -> None:
    """Also of readers that come and go while the owner reads nothing, and the socket is full."""
    owned = owner.publish()
    for _ in range(100):
        with ArenaPeer(host.socket_path) as reader:
            reader.open("camera")
    with ArenaPeer(host.socket_path) as reader:
        number = reader.open("camera").ledger[0]
        wait_until(lambda: host.counts()["ledgers"] == 1)
        said = board.line(owned.made.line).ledgers
        assert said < 100  # what was not sent was taken back
        heard = []
        while number not in heard:
            note = owned.receive()
            descriptors.close_all(note.descriptors)
            heard.append(note.number if note.kind == 3 else -note.number)
        while {n for n in heard if n > 0} - {-n for n in heard} != {number}:
            heard.append(-owned.forgotten())
        assert len(heard) == board.line(owned.made.line).ledgers == said


def test_word_counts_readers_that_an_owner_who_has_gone_does_not_hear_of(
    owner: ArenaPeer, reader: ArenaPeer, board: Board
) -> None:
    """It may be a process that the host has dropped, and that writes on: it must not reuse what they hold."""
    owned = owner.publish()
    owned.send(99)
    assert owned.is_ended()
    assert board.line(owned.made.line).ledgers == 0
    reader.open("camera")
    assert board.line(owned.made.line).ledgers == 1


@pytest.mark.parametrize("way", ["control", "session"])
@pytest.mark.parametrize("keep", [True, False])
def test_arena_is_kept_as_it_was_asked_for(
    owner: ArenaPeer, reader: ArenaPeer, board: Board, way: str, keep: bool
) -> None:
    owned = owner.publish(keep=keep)
    reader.open("camera")
    if way == "control":
        owned.leave()
    else:
        owner.socket.close()
    if keep:
        wait_until(lambda: stat(reader).leases == 1)  # without that of the owner
        assert reader.open("camera").ledger == (0, 0)
        assert board.line(owned.made.line).region == owned.made.region
    else:
        wait_until(lambda: board.line(owned.made.line).region == 0)
        assert reader.refusal(m.Open(3, ("camera",), (), False)).code == "not-found"
    reader.ask(m.Unlink(4, "camera"))


def test_addresses_stay_taken_while_the_owner_has_them_mapped(
    host: WatchedHost, owner: ArenaPeer, reader: ArenaPeer
) -> None:
    owned = owner.publish()
    reader.ask(m.Unlink(3, "camera"))
    assert host.counts()["arenas"] == 1
    owned.leave()
    wait_until(lambda: host.counts()["arenas"] == 0)


def test_owner_that_made_it_larger_by_itself_leaves_nothing(
    owner: ArenaPeer, reader: ArenaPeer, caplog: pytest.LogCaptureFixture
) -> None:
    owned = owner.publish(max_size=4 * SIZE)
    os.ftruncate(owned.memory, 2 * SIZE)
    owned.leave()
    wait_until(lambda: isinstance(reader.ask(m.Stat(3, "camera"))[0], m.Refused))
    assert "larger than the 65536 bytes that it is charged for" in caplog.text


# --- grown


def test_arena_grows_to_its_span(owner: ArenaPeer, reader: ArenaPeer, board: Board) -> None:
    owned = owner.publish(max_size=4 * SIZE)
    assert owned.grow(2 * SIZE - 1) == (0, 2 * SIZE)
    assert os.fstat(owned.memory).st_size == 2 * SIZE == board.line(owned.made.line).size
    assert reader.open("camera").grants[0].size == 2 * SIZE - 4096
    assert (stat(reader).size, stat(reader).capacity) == (2 * SIZE - 4096, 2 * SIZE)
    assert owned.grow(SIZE) == (0, 2 * SIZE)
    assert owned.grow(4 * SIZE + 1) == (errno.EINVAL, 2 * SIZE)
    assert owned.grow(4 * SIZE) == (0, 4 * SIZE)
    assert owned.grow(2**64 - 1) == (errno.EINVAL, 4 * SIZE)


def test_arena_does_not_grow_when_it_has_no_room(owner: ArenaPeer) -> None:
    owned = owner.make()
    assert owned.grow(2 * SIZE) == (errno.EINVAL, SIZE)
    assert owned.ready() == 0
    assert owned.grow(2 * SIZE) == (errno.EINVAL, SIZE)


def test_growth_is_refused_over_the_quota_and_leaves_all_as_it_was(host: WatchedHost, tmp_path: Path) -> None:
    budget = 1 << 20
    with watched_host(str(tmp_path / "small"), budget=budget) as small, ArenaPeer(small.socket_path) as owner:
        owned = owner.publish("camera", SIZE, 1 << 22)
        used = small.counts()["charged"]
        assert owned.grow(budget - 4096 + 1) == (errno.EDQUOT, SIZE)
        assert small.counts()["charged"] == used
        assert owned.grow(budget - 4096) == (0, budget - 4096)
        assert small.counts()["charged"] == budget
        assert (
            owner.refusal(m.Open(3, ("camera",), (), False)).code == "quota-exceeded"
        )  # no room for a ledger


def test_arena_is_refused_over_the_quota(host: WatchedHost, tmp_path: Path) -> None:
    with (
        watched_host(str(tmp_path / "small"), budget=1 << 20) as small,
        ArenaPeer(small.socket_path) as owner,
    ):
        most = (1 << 20) - 4096
        request = m.Arena(2, "camera", most + 1, 1 << 30, 0o600, True, True)
        assert owner.refusal(request).code == "quota-exceeded"
        owner.make("camera", most, 1 << 30)


def test_growth_that_the_owner_prevents_is_refused(owner: ArenaPeer) -> None:
    owned = owner.publish(max_size=4 * SIZE)
    os.ftruncate(owned.memory, 3 * SIZE)
    assert owned.grow(2 * SIZE) == (errno.EPERM, SIZE)


def test_addresses_are_bounded_where_they_are_scarce(tmp_path: Path) -> None:
    """An arena takes those that it may grow into."""
    window, most = (0x520000000000, 1 << 30), (1 << 29) + SIZE
    with (
        watched_host(str(tmp_path / "narrow"), windows=(window,)) as narrow,
        ArenaPeer(narrow.socket_path) as owner,
    ):
        owned = owner.publish("camera", SIZE, most, keep=False)
        refusal = owner.refusal(m.Arena(2, "other", SIZE, most, 0o600, True, False))
        assert refusal.code == "quota-exceeded"
        assert "bytes of addresses are over what the host has: 538968064 of 1073741824" in refusal.text
        owner.make("sealed", SIZE)
        owned.leave()
        wait_until(lambda: narrow.counts()["arenas"] == 1)
        owner.make("other", SIZE, most)


def test_addresses_to_grow_into_are_bounded_where_there_are_plenty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    totals = Totals(1 << 30, addresses=1 << 20)
    monkeypatch.setattr("shmhost.serving.server.totals_of", lambda _config, _slices: totals)
    with watched_host(str(tmp_path / "wide")) as wide, ArenaPeer(wide.socket_path) as owner:
        owned = owner.publish("camera", SIZE, SIZE + (1 << 20), keep=False)
        refusal = owner.refusal(m.Arena(2, "other", SIZE, SIZE + 4096, 0o600, True, False))
        assert "4096 bytes of addresses to grow into are over what the host has: 1048576 of" in refusal.text
        owner.make("sealed", SIZE)
        owned.leave()
        wait_until(lambda: wide.counts()["arenas"] == 1)
        owner.make("other", SIZE, SIZE + 4096)


# --- what breaks the rules


@pytest.mark.parametrize(
    "data", [b"x", bytes(23), bytes(25), bytes(20_000), bytes(24), b"\3" + bytes(23), b"\xff" * 24]
)
def test_owner_that_says_something_else_is_dropped(owner: ArenaPeer, reader: ArenaPeer, data: bytes) -> None:
    owned = owner.publish(keep=False)
    owned.control.send(data)
    assert owned.is_ended()
    assert isinstance(owner.ask(m.Measure(3))[0], m.Measured)  # its connection is not
    wait_until(lambda: isinstance(reader.ask(m.Stat(3, "camera"))[0], m.Refused))


def test_owner_cannot_send_descriptors(owner: ArenaPeer) -> None:
    owned = owner.publish()
    try:
        socket.send_fds(owned.control, [bytes(24)], [0])
    except PermissionError:  # Linux 6.16: nothing was sent
        assert owned.grow(SIZE) == (0, SIZE)
    else:
        assert owned.is_ended()


def test_owner_that_asks_for_ever_keeps_nobody_waiting(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owned = owner.publish(max_size=4 * SIZE)
    owned.control.setblocking(False)
    asked = 0
    with pytest.raises(BlockingIOError):
        while asked < 100_000:
            owned.send(ARENA_GROW, SIZE)
            asked += 1
    assert isinstance(reader.put("other"), m.Published)
    owned.control.settimeout(20)
    for _ in range(asked):
        assert owned.receive()[:2] == (ARENA_GROW, 0)
    assert owned.grow(2 * SIZE) == (0, 2 * SIZE)


def test_measure_counts_arenas_and_ledgers(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owner.publish("a")
    owner.make("b")
    reader.open("a")
    measured, _ = owner.ask(m.Measure(3))
    assert isinstance(measured, m.Measured)
    assert (measured.arenas, measured.ledgers) == (2, 1)
