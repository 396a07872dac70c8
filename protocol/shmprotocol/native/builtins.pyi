"""The builtins of the compiled module; see `builtins.c`."""

from typing import TypeVar

T = TypeVar("T")

def parse_attach(data: bytes, current: dict[str, T], /) -> tuple[int, list[int], int, list[T]] | None:
    """Return what all of the data asks for: Releases, and then an Open or nothing.

    That is the number of Releases, the leases that they give back, the id of the Open, and what it opens: the
    values of its names in `current`. None: the data is anything else, or not whole, or a name has no value.
    """

def pack_opened(request: int, leases: list[int], grants: list[bytes], /) -> bytes:
    """Return the whole frame of an Opened with at most 64 grants, whose descriptors go with it.

    The grants are packed but for their leases: those go behind the first byte of each.
    """

class Current:
    """The base of what stands for a region: whether that is current, by a line of the board."""

    def is_current(self) -> bool:
        """Whether this generation is still the current one of its name."""
    def _is_granted(self) -> bool | None:
        """Whether it is current, and the rights to it as they were when it was granted.

        None without a line, or without a living host: then the host must be asked.
        """
    def _ask_current(self) -> bool:
        """Ask the host; called by `is_current`."""
    def _follow_line(self, board: object, owner: int, line: int, region: int, rights: int, /) -> None:
        """Look at the line at this address from now on; `board` keeps the memory."""
