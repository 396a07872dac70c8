"""The lines of the board that names have, each charged to the owner of the name's latest region. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from shmhost.core.board import Board
from shmhost.core.shares import Share


class GivenLines:
    """The lines that are in use, with the shares that they are charged to. A line of 0 is none."""

    def __init__(self) -> None:
        self._shares: dict[int, Share] = {}

    def assign(self, board: Board, shared: int, share: Share) -> int:
        """Return a line for a region: the one of its predecessor, or another; 0 if none is left for it."""
        if shared:
            before = self._shares[shared]
            if before is not share:
                share.add(1)
                self._shares[shared] = share
                before.give(1)
            return board.assign(shared)
        if not share.fits(1):
            return 0
        line = board.assign(0)
        if line:
            share.take(1)
            self._shares[line] = share
        return line

    def resume(self, shares: Mapping[int, Share]) -> None:
        """Take the lines that regions of another host have, when none is in use."""
        self._shares = dict(shares)
        for share in self._shares.values():
            share.add(1)

    def release(self, board: Board, line: int) -> None:
        """Take note that a region with this line is freed."""
        if line and board.release(line):
            self._shares.pop(line).give(1)
