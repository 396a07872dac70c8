"""The words of arenas on the board, and hosts that have no room there."""

from __future__ import annotations

from pathlib import Path

import pytest

from arena_support import SIZE, ArenaPeer, Board
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import WatchedHost, wait_until, watched_host

pytestmark = pytest.mark.usefixtures("leaves_nothing")


# --- the board


def test_arena_needs_a_board(host: WatchedHost, tmp_path: Path) -> None:
    with watched_host(str(tmp_path / "bare"), board=0) as bare, ArenaPeer(bare.socket_path) as owner:
        assert owner.refusal(m.Arena(2, "camera", SIZE, 0, 0o600, True, True)).code == "unsupported"


def test_arena_is_refused_when_the_board_is_full(host: WatchedHost, tmp_path: Path) -> None:
    with watched_host(str(tmp_path / "narrow"), board=2) as narrow, ArenaPeer(narrow.socket_path) as owner:
        published = owner.put("a")
        assert isinstance(published, m.Published)
        owner.send(pack(m.Release(0, (published.grant.lease,))))
        owner.publish("b")
        before = narrow.counts()
        assert owner.refusal(m.Arena(2, "c", SIZE, 0, 0o600, True, True)).code == "quota-exceeded"
        assert narrow.counts() == before
        owner.ask(m.Unlink(3, "a"))
        owner.publish("c")


def test_waiters_are_counted_by_clients(host: WatchedHost, owner: ArenaPeer, board: Board) -> None:
    owned = owner.publish()
    line = owned.made.line
    with ArenaPeer(host.socket_path) as reader, ArenaPeer(host.socket_path) as other:
        assert reader.refusal(m.Attend(3, owned.made.region)).code == "invalid"
        for peer in (reader, other):
            peer.open("camera")
        for _ in range(2):
            assert reader.ask(m.Attend(3, owned.made.region))[0] == m.Done(3)
        assert board.line(line).waiters == 1
        assert other.ask(m.Attend(3, owned.made.region))[0] == m.Done(3)
        assert board.line(line).waiters == 2
    wait_until(lambda: board.line(line).waiters == 0)
