"""Memory with the pages of a region until it is written: that copies a page, for this process alone.

It is for libraries that have no read-only arrays: a region can never be written, and to write to its mapping
is SIGSEGV. This memory lies elsewhere: the region's own mapping, and all that others see, stays as it is.
"""

from __future__ import annotations

import errno
import mmap

from shmprotocol.errors import BadRegion, OutOfMemory
from shmprotocol.kernel import address_space


def private_view(
    descriptor: int, start: int, size: int, keeper: object, *, is_sealed: bool = True
) -> memoryview:
    """Return writable memory with the `size` bytes from `start` on of an object, which is sealed or named.

    It keeps the keeper. The caller still owns the descriptor. OutOfMemory: it cannot be mapped. BadRegion: it
    is not memory of that size, or can shrink: what is mapped already says nothing of another descriptor.
    """
    from shmclient.posix import mmap as map_memory

    address_space.check_memory(descriptor, start + size, is_sealed=is_sealed)
    skipped = start % mmap.PAGESIZE
    allowed = mmap.PROT_READ | mmap.PROT_WRITE
    try:
        mapping = map_memory(None, skipped + size, allowed, mmap.MAP_PRIVATE, descriptor, start - skipped)
    except OSError as error:
        if error.errno in address_space.NOT_MEMORY:
            raise BadRegion(f"the host sent a descriptor that cannot be mapped: {error.strerror}") from None
        if error.errno != errno.ENOMEM:
            raise
        raise OutOfMemory(f"no address space is left for {size} bytes that can be written: {error}") from None
    keepers = [mapping.buffer, keeper]
    address = mapping.address + skipped
    return memoryview(address_space.bytes_at(address, size, keepers.clear, is_writable=True))
