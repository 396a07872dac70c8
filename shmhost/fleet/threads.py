"""Work of the fleet in threads of its own, which no cancelled task leaves alone. Waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shmhost.fleet.hashing import chunk_count, leaf, part
from shmprotocol.abi.header import HEADER_SIZE, Header, check_header
from shmprotocol.errors import BadRegion

T = TypeVar("T")

THREADS = 2  # hashes and copies of chunks; both release the interpreter


class Threads:
    """A few threads; `run` waits for its call to return even when it is cancelled."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, "shmhost-copy")

    async def run(self, call: Callable[..., T], *arguments: object) -> T:
        """Call in a thread. Cancelled, it waits until the call has ended: its descriptors are in use."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """End the threads; nothing is under way any more."""
        self._pool.shutdown(wait=False)


def read_part(descriptor: int, size: int, index: int) -> bytes:
    """Return a chunk of an object with a payload of this size."""
    offset, length = part(size, index)
    data = os.pread(descriptor, length, HEADER_SIZE + offset)
    if len(data) != length:
        raise BadRegion(f"the object has {len(data)} bytes of chunk {index}, not {length}")
    return data


def write_part(descriptor: int, size: int, index: int, data: bytes, right: bytes) -> bytes:
    """Write a chunk if it has this hash; return the one that it has."""
    digest = leaf(data)
    offset, length = part(size, index)
    if digest == right and len(data) == length:
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view, HEADER_SIZE + offset + length - len(view))
            view = view[count:]
    return digest


def read_all(descriptor: int, size: int) -> tuple[Header, list[bytes]]:
    """Return the header of a sealed object, and the hashes of its payload."""
    header = check_header(os.pread(descriptor, HEADER_SIZE, 0), os.fstat(descriptor).st_size)
    return header, [leaf(read_part(descriptor, size, index)) for index in range(chunk_count(size))]
