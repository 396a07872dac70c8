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
