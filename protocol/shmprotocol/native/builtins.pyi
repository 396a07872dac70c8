"""The builtins of the compiled module; see `builtins.c`."""

from typing import Any, TypeVar

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

def dict_count(index: Any, data_size: int, /) -> int:
    """Check the index of a dict, whose values lie in so many bytes of data; return the number of its keys.

    This and the two below: ValueError for an index that breaks the rules of `shm_dict.h`.
    """

def dict_find(index: Any, data_size: int, key: object, /) -> tuple[int, int, bytes] | None:
    """Return offset, size and description of the value of a key, or None.

    TypeError, UnicodeEncodeError: this cannot be a key.
    """

def dict_records(index: Any, data_size: int, start: int, stop: int, /) -> list[tuple[str, int, int, bytes]]:
    """Return these records, each with its key, and offset, size and description of the value."""

def dict_make(
    keys: list[str],
    offsets: list[int],
    sizes: list[int],
    kinds: list[int],
    descriptions: list[bytes],
    seed: int,
    /,
) -> bytes | None:
    """Return an index. The lists have one length, but for the descriptions: `kinds` are positions in them.

    None: a bucket has too many keys, so take another seed. KeyError: two keys are the same text.
    UnicodeEncodeError: a key is not Unicode. OverflowError: one is too long.
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
