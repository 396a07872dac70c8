"""The frames of an attach and of a put without the codec, as they are the most frequent ones. Pure.

Only the plainest form is recognised: whole frames, Releases and then an Open that neither waits nor holds a
region, or a Put, or an Assign. Everything else is for `Connection`, which says what is wrong with it.
`shortcut.c`, `put.c` and `assign.c` do the work.
"""

from __future__ import annotations

import struct

import msgpack

from shmprotocol.native.builtins import pack_opened as opened
from shmprotocol.native.builtins import pack_published as published
from shmprotocol.native.builtins import parse_assign, parse_put, parse_request
from shmprotocol.native.builtins import parse_attach as parse
from shmprotocol.wire.codec import TAG_OF
from shmprotocol.wire.messages import Grant, Release

__all__ = [
    "opened",
    "pack_grant",
    "parse",
    "parse_assign",
    "parse_put",
    "parse_request",
    "published",
    "release",
]

_LENGTH = struct.Struct("<I")
_RELEASE = bytes((0x94, TAG_OF[Release], 0, 0, 0x91))  # id 0, an array of one lease


def release(lease: int) -> bytes:
    """Return the whole frame of a Release of one lease."""
    body: bytes = _RELEASE + msgpack.packb(lease)
    return _LENGTH.pack(len(body)) + body


def pack_grant(grant: Grant) -> bytes:
    """Return a grant without its lease, for `opened`. It says the same in each grant of a region."""
    packed: bytes = msgpack.packb(grant._replace(lease=0))
    return packed[:1] + packed[2:]  # without the 0
