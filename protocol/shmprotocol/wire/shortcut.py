"""The frames of an attach without the codec, as they are the most frequent ones. Pure.

Only the plainest form is recognised: whole frames, Releases and then an Open that neither waits nor holds a
region. Everything else is for `Connection`, which says what is wrong with it. `shortcut.c` does the work.
"""

from __future__ import annotations

import struct

import msgpack

from shmprotocol.native import builtins
from shmprotocol.wire.codec import TAG_OF
from shmprotocol.wire.messages import Grant, Release

_LENGTH = struct.Struct("<I")
_RELEASE = bytes((0x94, TAG_OF[Release], 0, 0, 0x91))  # id 0, an array of one lease
_GRANT = bytes((0x90 | len(Grant._fields),))  # the header of its array

parse = builtins.parse_attach
opened = builtins.pack_opened


def release(lease: int) -> bytes:
    """Return the whole frame of a Release of one lease."""
    body: bytes = _RELEASE + msgpack.packb(lease)
    return _LENGTH.pack(len(body)) + body


def pack_grant(grant: Grant) -> bytes:
    """Return a grant without its lease, for `opened`. It says the same in each grant of a region."""
    return _GRANT + b"".join(map(msgpack.packb, grant[1:]))
