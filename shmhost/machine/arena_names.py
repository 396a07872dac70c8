"""The names in an arena, read by its descriptor and not by a mapping: for people who look, not for speed.

Everything in an arena can be a lie, and change while it is read: each number is checked before it is used,
and a value that changes meanwhile is left out. See `shm_arena_layout.h`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.errors import BadRegion, InvalidArgument
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import MAX_METADATA, MAX_NAME, check_name

MAGIC = b"SHMAREN\0"
CONTROL = struct.Struct("<8s2I8Q")  # struct shm_arena_control, up to `used`
ENTRY = struct.Struct("<4Q32s")  # the start of struct shm_arena_entry
RECORD = struct.Struct("<3QII4Q")  # struct shm_arena_record
ENTRY_SIZE = ENTRY.size + 2 * RECORD.size
_AT_ONCE = 256  # entries, 48 KiB
_ABSENT = 2  # in the word of an entry


class Value(NamedTuple):
    """A value as the arena has it: the offset of its block, its bytes, and when it was published.

    `published_ns` is CLOCK_MONOTONIC. `is_current`: it is what the name leads to; else it was so before that.
    """

    name: str
    generation: int
    block: int
    size: int
    published_ns: int
    is_current: bool
    description: int  # the offset of its metadata, 0 for none, and the bytes of that
    description_size: int


def values_in(descriptor: int) -> Iterator[Value]:
    """Yield the current value of each name of an arena, and the one before it. BadRegion: it is not one."""
    size = os.fstat(descriptor).st_size
    page = os.pread(descriptor, CONTROL.size, HEADER_SIZE)
    if len(page) != CONTROL.size:
        raise BadRegion(f"{size} bytes are not an arena")
    magic, version, _, _, _, start, count, _, _, _, used = CONTROL.unpack(page)
    if magic != MAGIC or version != 1:
        raise BadRegion("the control page of the arena is not one, or of a later version")
    if start + count * ENTRY_SIZE > size:
        raise BadRegion(f"{count} entries at {start} do not fit in the {size} bytes of the arena")
    for first in range(0, min(used, count), _AT_ONCE):
        number = min(_AT_ONCE, min(used, count) - first)
        data = os.pread(descriptor, number * ENTRY_SIZE, start + first * ENTRY_SIZE)
        for at in range(0, len(data) - ENTRY_SIZE + 1, ENTRY_SIZE):
            yield from _values_at(descriptor, size, data, at)


def metadata_of(descriptor: int, value: Value) -> bytes:
    """Return the packed metadata of a value, b"" if it has none. Other bytes if it changes meanwhile."""
    start, size = value.description, value.description_size
    if not start or size > MAX_METADATA or start + size > os.fstat(descriptor).st_size:
        return b""
    return os.pread(descriptor, size, start)


def _values_at(descriptor: int, size: int, data: bytes, at: int) -> Iterator[Value]:
    word, _, name_size, name_at, inline = ENTRY.unpack_from(data, at)
    name = _name(descriptor, size, name_size, name_at, inline) if word else None
    if name is None:
        return
    for which in (word & 1, word & 1 ^ 1):
        block, length, description, description_size, _, _, _, generation, published_ns = RECORD.unpack_from(
            data, at + ENTRY.size + which * RECORD.size
        )
        is_current = which == word & 1
        if is_current and (word & _ABSENT or generation != word >> 2):
            continue  # it has none, or changed meanwhile
        if generation and HEADER_SIZE <= block <= block + length <= size:
            metadata = (description, description_size)
            yield Value(name, generation, block, length, published_ns, is_current, *metadata)


def _name(descriptor: int, size: int, name_size: int, name_at: int, inline: bytes) -> str | None:
    """Return the name of an entry, None for one that nobody can have."""
    if not 1 <= name_size <= MAX_NAME or (not name_at and name_size > len(inline)):
        return None
    if name_at + name_size > size:
        return None
    data = os.pread(descriptor, name_size, name_at) if name_at else inline[:name_size]
    try:
        return check_name(data.decode())
    except (UnicodeDecodeError, InvalidArgument):
        return None
