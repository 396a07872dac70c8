"""The arrays that a builder has made in a region, as readers are told of them. Writes nothing."""

from __future__ import annotations

from typing import Any

from shmclient import _codecs as codecs
from shmprotocol.errors import InvalidArgument

REFERENCE_ROOM = codecs.REFERENCE_SIZE + codecs.INDEX_ALIGNMENT  # bytes beside the index of a dict


class Arrays:
    """One array without a name, or any number with names, which become a dict.

    `room` is the bytes that there are for the index of the dict and the metadata, behind the data.
    """

    def __init__(self, region: str, room: int) -> None:
        self._region = region
        self._room = room
        self._single: dict[str, Any] | None = None
        self._names: set[str] = set()
        self._index = codecs.Index()

    def check_name(self, name: str | None) -> None:
        """Check that there can be an array of this name. TypeError, InvalidArgument."""
        if name is not None and not isinstance(name, str):
            raise TypeError(f"an array is named by a str, not {type(name).__name__}: {name!r:.40}")
        if name in self._names:
            raise InvalidArgument(f"{self._region!r} has the array {name!r:.40}: use another name")
        if self._single is not None or (name is None and self._names):
            raise InvalidArgument(f"{self._region!r} has an array already: if there are several, name each")

    def add(self, name: str | None, description: dict[str, Any]) -> None:
        """Add the description of an array; InvalidArgument when the room is full."""
        if name is None:
            self._single = description
            return
        number = self._index.describe(description)
        self._index.add(name, description["offset"], description["size"], number)
        try:
            self._check_room()
        except BaseException:
            self._index.pop()
            raise
        self._names.add(name)

    def describe(self, offset: int) -> tuple[bytes, bytes] | None:
        """Return the index, to be at an offset of the payload, and the metadata; None without arrays."""
        if self._single is not None:
            return b"", codecs.pack_metadata(self._single)
        if self._names:
            return self._index.pack(), codecs.pack_reference(offset)
        return None

    def _check_room(self) -> None:
        if len(self._index.pack()) + REFERENCE_ROOM > self._room:
            raise InvalidArgument(
                f"{len(self._names)} arrays of {self._region!r} are described, and the {self._room} bytes "
                "for that are full: make fewer and larger ones, or put() a dict"
            )
