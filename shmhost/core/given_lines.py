"""The lines of the board that names have, each charged to the owner of the name's latest region. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from shmhost.core.accounts import Accounts
from shmhost.core.board import Board
from shmhost.core.regions import Region
from shmhost.core.shares import Share


class GivenLines:
    """The lines that are in use, with the shares that they are charged to. A line of 0 is none."""

    def __init__(self) -> None:
        self._shares: dict[int, Share] = {}

    def assign(self, board: Board, region: Region, older: Region | None, accounts: Accounts) -> int:
        """Return a line for a region: the one of its predecessor, or another; 0 if none is left for it."""
        uid = region.owner.uid
        if older is None or not older.line or older.arena is not None:
            return self.take(board, accounts.of(uid).lines)
        if older.owner.uid != uid:
            self._move(older.line, accounts.of(uid).lines)
        return board.assign(older.line)

    def take(self, board: Board, share: Share) -> int:
        """Return a line that nothing has; 0 if none is left for this share."""
        line = board.assign(0) if share.fits(1) else 0
        if line:
            share.take(1)
            self._shares[line] = share
        return line

    def give_back(self, line: int) -> None:
        """Take note that no region has this line any more."""
        self._shares.pop(line).give(1)

    def resume(self, shares: Mapping[int, Share]) -> None:
        """Take the lines that regions of another host have, when none is in use."""
        self._shares = dict(shares)
        for share in self._shares.values():
            share.add(1)

    def _move(self, line: int, share: Share) -> None:
        before, self._shares[line] = self._shares[line], share
        share.add(1)
        before.give(1)
