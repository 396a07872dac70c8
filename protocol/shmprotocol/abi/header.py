"""The header page of a region: its values, its bytes, and its check. The Python view of `shm_abi.h`.

Knows no mapping, descriptor or message.
"""

from __future__ import annotations

import errno
import os
import struct

from shmprotocol.errors import BadRegion, InvalidArgument
from shmprotocol.native.binding import ffi, lib
from shmprotocol.tuples import NamedTuple

HEADER_SIZE = lib.SHM_HEADER_SIZE
KIND_DATA = lib.SHM_KIND_DATA
KIND_OBJECTS = lib.SHM_KIND_OBJECTS
KIND_BOARD = lib.SHM_KIND_BOARD
KIND_ARENA = lib.SHM_KIND_ARENA  # of a grant and a RegionInfo, too
FLAG_SEAL_FULL = lib.SHM_FLAG_SEAL_FULL
FLAG_SEAL_WRITER = lib.SHM_FLAG_SEAL_WRITER
FLAG_UNSEALED = lib.SHM_FLAG_UNSEALED
FLAG_SEAL_SHARED = lib.SHM_FLAG_SEAL_SHARED
FLAG_GROWS = lib.SHM_FLAG_GROWS
FLAG_ARENA = lib.SHM_FLAG_ARENA  # beside FLAG_SEAL_WRITER
VALUE_SHARED_DESCRIPTION = lib.SHM_VALUE_SHARED_DESCRIPTION  # of values in arenas
VALUE_OBJECTS = lib.SHM_VALUE_OBJECTS
ABI: tuple[int, int] = (lib.SHM_ABI_MAJOR, lib.SHM_ABI_MINOR)
PAGE = 4096
MAGIC = b"SHMHOST\0"


def page_up(size: int) -> int:
    """Return the size in whole pages, in bytes."""
    return (size + PAGE - 1) // PAGE * PAGE


class Header(NamedTuple):
    """The values of a `struct shm_region_header`, in its order. Pointers are numbers; 0 is NULL."""

    kind: int
    flags: int
    base: int
    size: int
    capacity: int
    data: int
    data_size: int
    root: int
    root_size: int
    generation: int
    created_ns: int
    creator_uid: int
    creator_gid: int
    creator_pid: int
    window_base: int
    window_size: int
    metadata: int
    metadata_size: int
    name: str

    def pack(self) -> bytes:
        """Return the 4096 bytes of the header page."""
        name = self.name.encode()
        if len(name) > lib.SHM_NAME_MAX:
            raise InvalidArgument(f"a name has at most {lib.SHM_NAME_MAX} bytes, not {len(name)}")
        return _LAYOUT.pack(
            MAGIC,
            lib.SHM_ABI_MAJOR,
            lib.SHM_ABI_MINOR,
            HEADER_SIZE,
            *self[:_BEFORE_NAME_SIZE],
            len(name),
            *self[_BEFORE_NAME_SIZE:-1],
            name,
        )


# The fields of struct shm_region_header in their order; a test compares it with the compiled structure.
_LAYOUT = struct.Struct("<8sHHI II QQQ QQQQ QQ IIi I QQ QQ 256s 3696x")
_BEFORE_NAME_SIZE = Header._fields.index("creator_pid") + 1


def check_header(page: bytes | memoryview, object_size: int) -> Header:
    """Return the header in these 4096 bytes of an object; BadRegion if they are not a header."""
    if len(page) < HEADER_SIZE:
        raise BadRegion(f"the header page has {HEADER_SIZE} bytes, not {len(page)}")
    page = bytes(page[:HEADER_SIZE])  # once: its writer may change it between the check and the use
    native = ffi.from_buffer("struct shm_region_header *", page)
    raise_unless_region(lib.shm_header_check(native, object_size), "the header page")
    _, _, _, _, *fields, name = _LAYOUT.unpack_from(page)
    name_size = fields.pop(_BEFORE_NAME_SIZE)
    try:
        return Header._make([*fields, name[:name_size].decode()])
    except UnicodeDecodeError:
        raise BadRegion("the name in the header is not UTF-8") from None


def read_metadata(descriptor: int) -> bytes:
    """Return the metadata of a region by its descriptor, not mapped; BadRegion if it is not one."""
    size = os.fstat(descriptor).st_size
    header = check_header(os.pread(descriptor, HEADER_SIZE, 0), size)
    # Inside of the object and within the limit: the check saw to both.
    return (
        os.pread(descriptor, header.metadata_size, header.metadata - header.base) if header.metadata else b""
    )


_BROKEN = {
    errno.EPERM: "is not sealed: its creator could truncate it under its readers",
    errno.EBADMSG: "is not the announced region, or its header is corrupt",
    errno.EPROTONOSUPPORT: "has another ABI version: use the same shmhost version on both sides",
}


def raise_unless_region(result: int, what: str) -> None:
    """Raise BadRegion for a negative errno of the checks in `shm_abi.h`, and name the fault."""
    if -result in _BROKEN:
        raise BadRegion(f"{what} {_BROKEN[-result]}")
