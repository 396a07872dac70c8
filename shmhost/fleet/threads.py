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


def write_part(
    descriptor: int, size: int, index: int, data: bytes | bytearray | memoryview, right: bytes
) -> bytes:
    """Write a chunk if it has this hash; return the one that it has."""
    digest = leaf(data)
    offset, length = part(size, index)
    if digest == right and len(data) == length:
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view, HEADER_SIZE + offset + length - len(view))
            view = view[count:]
    return digest


def header_at(descriptor: int) -> Header:
    """Return the header of a sealed object."""
    return check_header(os.pread(descriptor, HEADER_SIZE, 0), os.fstat(descriptor).st_size)


async def hash_all(threads: Threads, descriptor: int, size: int) -> list[bytes]:
    """Return the hashes of the chunks of a sealed object; all threads share the work."""
    count = chunk_count(size)
    step = -(-count // THREADS)
    ranges = [range(start, min(start + step, count)) for start in range(0, count, step)]
    calls = [threads.run(_hashes, descriptor, size, each) for each in ranges]
    results = await asyncio.gather(*calls, return_exceptions=True)  # none uses the descriptor after this
    leaves: list[bytes] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        leaves += result
    return leaves


def _hashes(descriptor: int, size: int, indices: range) -> list[bytes]:
    return [leaf(read_part(descriptor, size, index)) for index in indices]
