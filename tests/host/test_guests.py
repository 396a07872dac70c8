"""Guests: the turn and the account of a user who connects are kept for a moment after its last connection."""

from __future__ import annotations

import gc
import socket
from contextlib import ExitStack

import pytest
from test_turns import run, until

from shmhost.core.accounts import Accounts
from shmhost.core.peers import Peer
from shmhost.core.resources import Totals
from shmhost.serving import guests as guests_module
from shmhost.serving.guests import MAX_GUESTS, Guests
from shmhost.serving.turns import Turns

TOTAL = 1 << 20


class Rig:
    """The guests of a host, and a client of each that comes."""

    def __init__(self) -> None:
        self.turns, self.accounts = Turns(), Accounts(Totals(TOTAL))
        self.guests = Guests(self.turns, self.accounts)

    def visit(self, uid: int) -> None:
        """Have a client of a user connect, and go."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            turn, account = self.guests.receive(uid), self.accounts.of(uid)
            account.connect(Peer(uid, uid))
            turn.add(ours.fileno(), lambda: None)
            turn.remove(ours.fileno())
            account.disconnect()

    def users(self) -> set[int]:
        """Return the uids of those who have an account, though they are privileged by nothing."""
        return {account.uid for account in self.accounts} - {0}


def test_user_who_comes_right_back_finds_its_turn_and_its_account() -> None:
    async def main(_stack: ExitStack) -> None:
        rig = Rig()
        _other = rig.turns.of(8)  # so that there is an epoll
        rig.visit(7)
        turn, account, epoll = rig.turns.of(7), rig.accounts.of(7), rig.turns.of(7)._epoll
        rig.visit(7)
        assert (rig.turns.of(7), rig.accounts.of(7)) == (turn, account)
        assert turn._epoll is epoll is not None
        rig.guests.close()
        assert turn._epoll is None

    run(main)


def test_user_who_stays_away_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests_module, "KEEP_S", 0.001)

    async def main(_stack: ExitStack) -> None:
        rig = Rig()
        rig.visit(7)
        assert rig.users() == {7}
        await until(lambda: not rig.users())
        gc.collect()
        assert rig.guests.latest() is None
        assert 7 not in rig.turns._turns
        rig.visit(7)  # which begins anew
        assert rig.guests.latest() is None  # nobody else is here
        _other = rig.turns.of(8)
        assert rig.guests.latest() is rig.turns.of(7)
        rig.guests.close()

    run(main)


def test_user_who_has_something_stays_when_it_is_a_guest_no_more() -> None:
    async def main(_stack: ExitStack) -> None:
        rig = Rig()
        rig.guests.receive(7)
        account = rig.accounts.of(7)
        charge = account.charge(10)
        rig.guests.close()
        assert rig.accounts.of(7) is account
        charge.release()
        assert rig.users() == set()

    run(main)


def test_guarantees_are_kept_for_a_few_users_alone() -> None:
    async def main(_stack: ExitStack) -> None:
        rig = Rig()
        for uid in range(1, MAX_GUESTS + 1):
            rig.visit(uid)
        assert rig.users() == set(range(1, MAX_GUESTS + 1))
        rig.visit(MAX_GUESTS + 1)
        assert rig.users() == set(range(2, MAX_GUESTS + 2))
        rig.guests.close()
        assert rig.users() == set()

    run(main)
