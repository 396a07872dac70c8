"""Guests: the account and the turn of a user, kept for a moment after the last connection for who comes back.

† To open and close an account takes 50 us, and a turn's epoll 25 us: as much as all else of a connection
that comes and goes (2026-11).
"""

from __future__ import annotations

import asyncio

from shmhost.core.accounts import Account, Accounts
from shmhost.serving.turns import Turn, Turns

KEEP_S = 0.1
MAX_GUESTS = 4  # users: the guarantees of an account stay booked while it is kept


class Guests:
    """The users that have come in the last KEEP_S. Made and used in the loop's thread alone."""

    def __init__(self, turns: Turns, accounts: Accounts) -> None:
        self._loop = asyncio.get_running_loop()
        self.turns: Turns = turns
        self._accounts = accounts
        self._kept: dict[int, tuple[Turn, Account]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._latest: Turn | None = None

    def receive(self, uid: int) -> Turn:
        """Return the turn of a user who connects, and keep it."""
        if uid not in self._kept:
            if len(self._kept) >= MAX_GUESTS:
                self._let_go(next(iter(self._kept)))
            turn, account = self._kept[uid] = self.turns.of(uid), self._accounts.of(uid)
            turn.keep()
            account.keep()
        if self._timer is None:
            self._timer = self._loop.call_later(KEEP_S, self.close)
        self._latest = turn = self._kept[uid][0]
        return turn

    def latest(self) -> Turn | None:
        """Return the turn of the user who came last; None if that was long ago, or nobody else is here."""
        return self._latest if self.turns.are_many() else None

    def close(self) -> None:
        """Keep nothing more of anybody who is here by now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._latest = None
        for uid in list(self._kept):
            self._let_go(uid)

    def _let_go(self, uid: int) -> None:
        turn, account = self._kept.pop(uid)
        turn.let_go()
        account.let_go()
