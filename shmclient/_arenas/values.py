"""Values of an arena: how they are encoded for its owner, and decoded for its readers. Pure.

A description that was seen before costs one look-up in a dict: the readers of C keep a plan for it.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any

from shmclient import _codecs as codecs
from shmclient._codecs import numpy as arrays
from shmclient._codecs.libraries import WRITES, LibraryName, check_library, taken_by
from shmprotocol.abi.header import VALUE_OBJECTS, VALUE_SHARED_DESCRIPTION
from shmprotocol.native.builtins import ArenaReader, HeldValue


class TakesObjects:
    """The part of an arena's owner that stores objects."""

    put: Any

    def put_object(self, name: str, obj: object) -> int:
        """Pickle an object, copy it and publish it, as `put` does; see `shmclient.Client.put_object`."""
        generation: int = self.put(name, codecs.pickled(obj))
        return generation


def decode(reader: ArenaReader, held: HeldValue) -> Any:
    """Return a value over a held one, and have the reader make the next ones of its kind by itself.

    BadRegion: its description does not fit its bytes.
    """
    description = held.description
    data = memoryview(held)
    if not description or held.flags & VALUE_OBJECTS:
        return data
    metadata = codecs.unpack_metadata(description)
    value = codecs.decode(metadata, data)
    if held.flags == VALUE_SHARED_DESCRIPTION:
        plan = _plan(metadata, value)
        if plan is not None:
            reader._plan(held.description_address, plan)
    return value


def value_as(reader: Any, held: HeldValue, library: LibraryName) -> Any:
    """Return a value over a held one with a library's arrays, in private memory if that always writes.

    Without a descriptor of the arena, of which this process keeps a limited number, that memory is a copy.
    """
    check_library(library)
    description = held.description
    if library not in WRITES or not description or held.flags & VALUE_OBJECTS:
        return taken_by(library, decode(reader, held))
    from shmclient._regions.private import private_view

    owned = reader.lease.lend()
    try:
        start = held.address - reader.grant.address - reader.moved_by
        memory = private_view(owned[0], start, held.size, held) if owned else memoryview(bytearray(held))
    finally:
        owned.close()
    return taken_by(library, codecs.decode(codecs.unpack_metadata(description), memory))


def _plan(metadata: dict[str, Any], value: Any) -> tuple[Any, ...] | None:
    """Return what makes an array of the same kind: see `_plan` in `arena_reader.c`."""
    if metadata.get("format") != arrays.FORMAT or "class" in metadata or not value.nbytes:
        return None
    if metadata["offset"] != 0:
        return None
    ndarray = sys.modules["numpy"].ndarray
    # The array that is kept stays the reader's: each caller gets a view of it, whose shape is its own affair.
    return ndarray, (value.shape, value.dtype), (0, None, metadata["order"]), value.nbytes, ndarray.view


def kind_of(value: Any) -> tuple[Hashable, Any] | None:
    """Return the key and the class by which an owner finds the description of arrays like this one."""
    key = arrays.kind_of(value)
    if key is None or not arrays.is_plain(value):
        return None
    return key, sys.modules["numpy"].ndarray
