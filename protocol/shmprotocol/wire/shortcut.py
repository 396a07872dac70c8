"""The frames of an attach without the codec, as they are the most frequent ones. Pure.

Only the plainest form is recognised: whole frames, Releases of one lease each and then an Open of one name
that neither waits nor holds a region. Everything else is for `Connection`, which says what is wrong with it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import msgpack

from shmprotocol.wire.codec import TAG_OF
from shmprotocol.wire.messages import Grant, Open, Opened, Release

_LENGTH = struct.Struct("<I")
_PREFIX = _LENGTH.size
_OPEN = bytes((0x96, TAG_OF[Open], 0))  # an array of 6: tag, no descriptors, id, names, held, wait
_RELEASE = bytes((0x94, TAG_OF[Release], 0, 0, 0x91))  # id 0, an array of one lease
_ONE_NAME, _FIXED_STRING, _STRING = 0x91, 0xA0, 0xD9  # a string of up to 31 bytes, and of up to 255
_TAIL = b"\x90\xc2"  # nothing held, no wait
_WIDTHS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}  # of an integer, by its first byte
_OPENED = msgpack.packb([TAG_OF[Opened], 1, 0, []])[:-2]  # up to the id
_GRANT = b"\x91\x98"  # an array of one grant, which is an array of 8


class Attach(NamedTuple):
    """Leases to give back, and then a region to open; `name` "": none."""

    leases: list[int]
    id: int
    name: str


def parse(data: bytes) -> Attach | None:
    """Return what all of the data asks for, or None if it is anything else, or not whole."""
    try:
        return _parse(data)
    except IndexError:  # a frame that is shorter than its fields
        return None


def _parse(data: bytes) -> Attach | None:
    leases: list[int] = []
    start, size = 0, len(data)
    while start + 9 <= size:
        end = start + _PREFIX + _LENGTH.unpack_from(data, start)[0]
        if end > size:
            return None
        if data.startswith(_OPEN, start + _PREFIX):
            return _open(data, start + _PREFIX + 3, leases) if end == size else None
        if not data.startswith(_RELEASE, start + _PREFIX):
            return None
        lease, after = _integer(data, start + _PREFIX + 5)
        if after != end:
            return None
        leases.append(lease)
        start = end
    return Attach(leases, 0, "") if start == size and leases else None


def _open(data: bytes, at: int, leases: list[int]) -> Attach | None:
    number, at = _integer(data, at)
    if not data.endswith(_TAIL) or data[at] != _ONE_NAME or len(data) < at + 4:
        return None
    length = data[at + 1] - _FIXED_STRING
    at += 2
    if not 0 < length < 32:
        if data[at - 1] != _STRING:
            return None
        length, at = data[at], at + 1
    if at + length + 2 != len(data):
        return None
    try:
        return Attach(leases, number, str(data[at:-2], "utf-8"))
    except UnicodeDecodeError:
        return None


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """Return an unsigned integer and the index behind it; an index behind the data if it is none."""
    first = data[at]
    if first < 0x80:
        return first, at + 1
    end = at + 1 + _WIDTHS.get(first, len(data))
    return int.from_bytes(data[at + 1 : end], "big"), end


def release(lease: int) -> bytes:
    """Return the whole frame of a Release of one lease."""
    body: bytes = _RELEASE + msgpack.packb(lease)
    return _LENGTH.pack(len(body)) + body


def pack_rest(grant: Grant) -> bytes:
    """Return a grant without its lease, for `opened`. It says the same in each grant of a region."""
    rest: bytes = b"".join(map(msgpack.packb, grant[1:]))
    return rest


def opened(request: int, lease: int, rest: bytes) -> bytes:
    """Return the whole frame of an Opened with one grant, whose descriptor goes with it."""
    body: bytes = b"".join((_OPENED, msgpack.packb(request), _GRANT, msgpack.packb(lease), rest))
    return _LENGTH.pack(len(body)) + body
