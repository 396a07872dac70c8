"""Work of the fleet in threads of its own, which no cancelled task leaves alone. Waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from shmhost.fleet.hashing import chunk_count, leaf_hasher, part
from shmprotocol.abi.header import HEADER_SIZE, Header, check_header
from shmprotocol.errors import BadRegion
from shmprotocol.kernel.constants import KIB, MIB
from shmprotocol.tuples import NamedTuple

T = TypeVar("T")


class Closable(Protocol):
    """An object that has to be closed by whoever has it."""

    def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)

THREADS = 2  # hashes and copies of chunks; both release the interpreter
AT_ONCE = 16  # chunks that are hashed in one call of a thread: some 10 ms, or 40 of large ones
QUICK = 64 * KIB  # bytes that are hashed and written at once, in 50 us: a thread would take longer
PIECE = MIB  # bytes that are hashed at a time, in one buffer: memory for each chunk costs a fifth more


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

    async def make(self, call: Callable[..., C], *arguments: object) -> C:
        """Call in a thread, as `run`; cancelled, what the call returns is closed."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda future: future.exception() or future.result().close())
            await asyncio.wait([future])
            raise

    def close(self) -> None:
        """End the threads; nothing is under way any more."""
        self._pool.shutdown(wait=False)


class Chunk(NamedTuple):
    """A chunk in a sealed object. The descriptor belongs to whoever got this, who reads it once."""

    descriptor: int
    offset: int
    size: int

    def read(self) -> bytes:
        """Return the bytes, and close the descriptor."""
        try:
            return read_at(self.descriptor, self.offset, self.size)
        finally:
            os.close(self.descriptor)


class Target:
    """Where a chunk goes, piece by piece: each is hashed and written while it is in the CPU's cache.

    A chunk with the wrong hash is written over later: nobody sees an object before all of it is right. The
    descriptor is a copy, so a thread may still write when the transfer has been given up.
    """

    def __init__(self, descriptor: int, size: int, index: int) -> None:
        offset, self._left = part(size, index)
        self._offset = HEADER_SIZE + offset
        self._hasher = leaf_hasher()
        self._descriptor = os.dup(descriptor)

    def feed(self, data: bytes | memoryview) -> None:
        """Hash and write what comes next; what is too much is not written."""
        self._hasher.update(data)
        view = memoryview(data)[: self._left]
        while view:
            count = os.pwrite(self._descriptor, view, self._offset)
            self._offset += count
            self._left -= count
            view = view[count:]

    def finish(self) -> bytes:
        """Return the hash of all that came."""
        self.close()
        return bytes(self._hasher.digest())

    def close(self) -> None:
        """Write no more. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Held:
    """A payload of one chunk, which is held in memory until it is proven: then its object is made at once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._hasher = leaf_hasher()

    def feed(self, data: bytes | memoryview) -> None:
        """Hash and keep what comes next; the wire bounds it."""
        self._hasher.update(data)
        self._parts.append(bytes(data))

    def finish(self) -> bytes:
        """Return the hash of all that came."""
        return bytes(self._hasher.digest())

    def close(self) -> None:
        """Nothing is to be closed."""

    def data(self) -> bytes:
        """Return all that came."""
        return b"".join(self._parts)


AnyTarget = Target | Held


def read_at(descriptor: int, offset: int, size: int) -> bytes:
    """Return some bytes of an object."""
    data = os.pread(descriptor, size, offset)
    if len(data) != size:
        raise BadRegion(f"the object has {len(data)} bytes at {offset}, not {size}")
    return data


def fill(target: AnyTarget, data: bytes) -> bytes:
    """Put a whole chunk where it belongs; return its hash."""
    try:
        target.feed(data)
        return target.finish()
    finally:
        target.close()


def header_at(descriptor: int) -> Header:
    """Return the header of a sealed object."""
    return check_header(os.pread(descriptor, HEADER_SIZE, 0), os.fstat(descriptor).st_size)


async def hash_all(
    threads: Threads, descriptor: int, size: int, is_wanted: Callable[[], bool] = lambda: True
) -> list[bytes]:
    """Return the hashes of the chunks of a sealed object; some at a time, so that other work has its turn.

    All threads share the work: what is left of it when all was sent keeps no CPU idle. Once it is not wanted
    any more, hashes are missing.
    """
    count, leaves = chunk_count(size), list[bytes]()
    while len(leaves) < count and is_wanted():
        starts = range(len(leaves), count, AT_ONCE)[:THREADS]
        ranges = [range(start, min(start + AT_ONCE, count)) for start in starts]
        calls = [threads.run(hashes, descriptor, size, each) for each in ranges]
        results = await asyncio.gather(*calls, return_exceptions=True)  # none uses the descriptor after this
        for result in results:
            if isinstance(result, BaseException):
                raise result
            leaves += result
    return leaves


def hashes(descriptor: int, size: int, indices: range | None = None) -> list[bytes]:
    """Return the hashes of some chunks of a sealed object, or of all; piece by piece, as `Target`."""
    buffer = memoryview(bytearray(min(size, PIECE)))
    leaves = []
    for index in range(chunk_count(size)) if indices is None else indices:
        offset, left = part(size, index)
        hasher = leaf_hasher()
        while left:
            view = buffer[: min(left, PIECE)]
            count = os.preadv(descriptor, [view], HEADER_SIZE + offset)
            if not count:
                raise BadRegion(f"the object ends at {offset}, and not at {size}")
            hasher.update(view[:count])
            offset, left = offset + count, left - count
        leaves.append(bytes(hasher.digest()))
    return leaves
