"""The file of a snapshot: a page about it, then the image of a region, header page first. Pure.

Knows no file, descriptor or message. `protocol/README.md` has the bytes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shmprotocol.abi.header import (
    FLAG_ARENA,
    FLAG_GROWS,
    FLAG_SEAL_SHARED,
    FLAG_SEAL_WRITER,
    HEADER_SIZE,
    KIND_DATA,
    KIND_OBJECTS,
    PAGE,
    Header,
    check_header,
    page_up,
)
from shmprotocol.errors import BadRegion
from shmprotocol.tuples import NamedTuple

if TYPE_CHECKING:
    import hashlib

MAGIC = b"SHMSNAP\0"
VERSION = 1
IMAGE = PAGE  # where the image begins: at a page, so that it can be mapped where it was
START = IMAGE + HEADER_SIZE  # bytes of the file that say all about it but what it holds
DIGEST_SIZE = 32
_PERSON = b"shmhost-snapshot"  # so that no other use of BLAKE2b has the same hash
_LAYOUT = struct.Struct("<8sIIQQII32sQ4016x")
_DIGEST_AT = 40


class Snapshot(NamedTuple):
    """The first two pages of a file. `header` is that of the region, with the bytes of the image.

    `max_size` is that of the payload of a region that can grow, 0 of all others.
    """

    mode: int
    saved_ns: int
    digest: bytes
    max_size: int
    header: Header

    @property
    def file_size(self) -> int:
        """The bytes of the file."""
        return IMAGE + self.header.capacity

    def pack(self) -> bytes:
        """Return the first two pages of the file."""
        page = _LAYOUT.pack(
            MAGIC,
            VERSION,
            IMAGE,
            self.header.capacity,
            self.saved_ns,
            self.mode,
            0,
            self.digest,
            self.max_size,
        )
        return page + self.header.pack()


def new_snapshot(header: Header, name: str, mode: int, now_ns: int, size: int) -> Snapshot:
    """Return the snapshot of a region with this header, without its hash; if it grows, of `size` bytes."""
    max_size = 0
    if header.flags & FLAG_GROWS:
        max_size = header.capacity - HEADER_SIZE
        header = header._replace(flags=header.flags & ~FLAG_GROWS, size=size, data_size=size - HEADER_SIZE)
    image = header._replace(name=name, capacity=page_up(header.size))
    return Snapshot(mode, now_ns, bytes(DIGEST_SIZE), max_size, image)


def new_hash(start: bytes) -> hashlib.blake2b:
    """Return the hash of a file that starts with these two pages, to be updated with all that follows."""
    import hashlib  # loads OpenSSL: 4 ms of the import of the client

    return hashlib.blake2b(
        start[:_DIGEST_AT] + bytes(DIGEST_SIZE) + start[_DIGEST_AT + DIGEST_SIZE :],
        digest_size=DIGEST_SIZE,
        person=_PERSON,
    )


def read_start(start: bytes, file_size: int) -> Snapshot:
    """Return what the first two pages of a file say; BadRegion if they are not those of a snapshot.

    The size of the file and the places of all parts are checked; name, mode and hash are not.
    """
    if len(start) < START or start[: len(MAGIC)] != MAGIC:
        raise BadRegion("it is not a snapshot: it does not start as one")
    _, version, image, capacity, saved_ns, mode, _, digest, max_size = _LAYOUT.unpack_from(start)
    if version != VERSION or image != IMAGE:
        raise BadRegion(
            f"it is a snapshot of version {version}, and this release reads version {VERSION}: load it "
            "with a newer one"
        )
    if file_size != IMAGE + capacity:
        raise BadRegion(f"it has {file_size} bytes, and should have {IMAGE + capacity}: it was cut, or grew")
    header = check_header(start[IMAGE:], capacity)
    if header.kind not in (KIND_DATA, KIND_OBJECTS) or header.flags & (FLAG_ARENA | FLAG_GROWS):
        raise BadRegion(f"it holds a region of kind {header.kind}, not of {KIND_DATA} or {KIND_OBJECTS}")
    if capacity != page_up(header.size) or header.size <= HEADER_SIZE:
        raise BadRegion(f"it says {header.size} of {capacity} bytes: it is corrupt")
    can_grow = header.flags & (FLAG_SEAL_WRITER | FLAG_SEAL_SHARED)
    if max_size and (not can_grow or max_size < header.size - HEADER_SIZE):
        raise BadRegion(f"it may grow to {max_size} bytes, it says, as no such region can: it is corrupt")
    return Snapshot(mode, saved_ns, digest, max_size, header)
