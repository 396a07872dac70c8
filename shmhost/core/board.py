"""The board: where the host says which region of each name is current. Pure; `machine.board` has the memory.

The host writes before it answers the request that changes something. So a client that has the answer finds
the change on the board, and so does everybody that it tells.
"""

from __future__ import annotations

from typing import Protocol


class Board(Protocol):
    """A board of a number of names. A line is 0 for a name that has none: it is not written then.

    `range` is its address and its bytes, (0, 0) if there is nothing to be mapped.
    """

    names: int
    range: tuple[int, int]

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the board's; only if it has a range."""

    def assign(self, shared: int) -> int:
        """Return a line for a region: the one of its predecessor, or another; 0 if there is none left."""

    def release(self, line: int) -> bool:
        """Take note that a region with this line is freed; return whether no other has it."""

    def set(self, line: int, region: int, generation: int) -> None:
        """Say that a region is current on a line, or with 0 that none is; wake those who wait for that."""

    def word(self, line: int) -> int:
        """Return the address of a line, for `publish_put`, which writes it; 0 for none."""

    def set_rights(self, line: int, rights: int) -> None:
        """Say that the rights to the region of a line have changed."""

    def set_arena(self, line: int, ledgers: int, waiters: int, size: int) -> None:
        """Write the words of the arena of a line, which is not 0; see `shm_board.h`."""


class NoBoard:
    """A board without lines: every client asks the host."""

    names = 0
    range: tuple[int, int] = (0, 0)

    def reader(self) -> int:
        """Raise an error: there is no descriptor."""
        raise AssertionError("a board without a range has no descriptor")

    def assign(self, shared: int) -> int:
        """Return 0."""
        return 0

    def release(self, line: int) -> bool:
        """Return False."""
        return False

    def set(self, line: int, region: int, generation: int) -> None:
        """Do nothing."""

    def word(self, line: int) -> int:
        """Return 0."""
        return 0

    def set_rights(self, line: int, rights: int) -> None:
        """Do nothing."""

    def set_arena(self, line: int, ledgers: int, waiters: int, size: int) -> None:
        """Do nothing."""
