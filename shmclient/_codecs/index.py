"""The index of a dict, as its writer makes it: see section 15 of `protocol/README.md`. Knows no values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from shmclient._codecs.items import pack_metadata
from shmprotocol.errors import InvalidArgument
from shmprotocol.native.builtins import dict_make

KEYS_MAX = 2**31 - 1  # SHM_DICT_MAX
SEED = 0xCBF29CE484222325  # of FNV-1a
TRIES = 16  # one is enough, but for keys that were chosen to collide
INDEX_ALIGNMENT = 8  # bytes; its words are loaded as they lie
# Native readers look for these bytes, without msgpack: a map of two keys, and an integer in its longest form.
_REFERENCE = b"\x82\xa6format\xa4dict\xa5index\xcf"
REFERENCE_SIZE = len(_REFERENCE) + 8


def pack_reference(offset: int) -> bytes:
    """Return the metadata of a dict whose index is at an offset of the payload."""
    return _REFERENCE + offset.to_bytes(8, "big")


class Index:
    """Keys with the places of their values, and descriptions that values share."""

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._kinds: list[int] = []
        self._descriptions: dict[bytes, int] = {}

    def describe(self, description: Mapping[str, Any]) -> int:
        """Add a description without its offset and size, unless it is there; return its number."""
        packed = pack_metadata(
            {key: description[key] for key in description if key not in ("offset", "size")}
        )
        return self._descriptions.setdefault(packed, len(self._descriptions))

    def add(self, key: str, offset: int, size: int, kind: int) -> None:
        """Add a key, whose value has the description with this number."""
        self._keys.append(key)
        self._offsets.append(offset)
        self._sizes.append(size)
        self._kinds.append(kind)

    def pop(self) -> None:
        """Take back the last key."""
        for column in (self._keys, self._offsets, self._sizes, self._kinds):
            column.pop()

    def pack(self, lead: int = 0) -> bytes:
        """Return the index; InvalidArgument: a key that cannot be stored, or too many of them.

        With a `lead`, which is the bytes of the payload before the index, the data follows it at the next
        multiple of 64, and the offsets of the values count from there.
        """
        if len(self._keys) > KEYS_MAX:
            raise InvalidArgument(f"a dict has at most {KEYS_MAX} keys, not {len(self._keys)}: put several")
        columns = (self._keys, self._offsets, self._sizes, self._kinds, list(self._descriptions))
        seed = SEED
        for _ in range(TRIES):
            try:
                index = dict_make(*columns, lead, seed)
            except UnicodeEncodeError as error:
                raise InvalidArgument(f"a name is not UTF-8: {error}") from None
            except (KeyError, OverflowError) as error:
                raise InvalidArgument(f"the dict cannot be stored: {error.args[0]}") from None
            if index is not None:
                return index
            seed = int.from_bytes(os.urandom(8), "little")
        raise InvalidArgument(
            f"{len(self._keys)} keys collide whatever the seed of their hash is: rename them"
        )
