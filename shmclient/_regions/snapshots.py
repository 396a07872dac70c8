"""Snapshots of regions in files: written beside their place and renamed, read as if anybody had forged them.

Both ways the bytes go through one small buffer, whatever the size, and what is hashed is what was copied: a
file or a region that changes meanwhile does not match its hash.
"""

from __future__ import annotations

import hmac
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Any

from shmclient._process.replacing import replacing
from shmclient._regions.region import RegionHandle, attached
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.abi.snapshot import IMAGE, START, Snapshot, new_hash, new_snapshot, read_start
from shmprotocol.errors import BadRegion, InvalidArgument
from shmprotocol.kernel.address_space import NOT_MEMORY
from shmprotocol.wire.names import check_mode, check_name

PIECE = 1 << 20  # bytes at a time: they are still in the cache of the CPU when they are hashed
_ZEROS = bytes(PIECE)
Progress = Callable[[int], None]


def save(region: RegionHandle, path: str, mode: int, file_mode: int, progress: Progress | None) -> int:
    """Write a region to a file, whole or not at all; return its bytes. `mode` is what the region has.

    InvalidArgument: something else than a file has the path. BadRegion, OSError.
    """
    header = attached(region).header
    if header.base != region._grant.address:
        raise BadRegion(f"{region.name!r} says that it is at {header.base:#x}: its header is corrupt")
    snapshot = new_snapshot(header, region.name, mode, time.time_ns(), region.capacity)
    with replacing(path, file_mode) as descriptor:
        digest = new_hash(snapshot.pack())
        os.ftruncate(descriptor, snapshot.file_size)
        for position, piece in _pieces(region.fileno(), 0, HEADER_SIZE, snapshot.header.size, region.name):
            digest.update(piece)
            _write(descriptor, piece, IMAGE + position)
            if progress is not None:
                progress(position + len(piece))
        digest.update(bytes(snapshot.header.capacity - snapshot.header.size))
        _write(descriptor, snapshot._replace(digest=digest.digest()).pack(), 0)
    return snapshot.file_size


class Source:
    """A file that may hold a snapshot, open, with what its first pages say. Closed by `with`, or `close`."""

    def __init__(self, path: str) -> None:
        """Open a file. BadRegion: it is not a snapshot. OSError."""
        # Not to wait for a writer of a FIFO, nor for a device.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        self._path = path
        try:
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise BadRegion("it is not a regular file")
            self._start = os.pread(self._descriptor, START, 0)
            self.snapshot: Snapshot = read_start(self._start, status.st_size)
            check_name(self.snapshot.header.name)
            check_mode(self.snapshot.mode)
        except (BadRegion, InvalidArgument) as error:
            self.close()
            raise BadRegion(f"{path}: {error}") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file. May be called again."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def copy(self, write: Callable[[int, memoryview], None], progress: Progress | None) -> None:
        """Write the payload to where it was in the region. BadRegion: the hash is that of something else."""
        for position, piece in self._checked():
            if not _is_hole(piece):
                write(position, memoryview(piece))
            if progress is not None:
                progress(position + len(piece))

    def is_in(self, region: RegionHandle) -> bool:
        """Whether a region has the same address and content. BadRegion as `copy`."""
        expected = self.snapshot.header
        header, descriptor = attached(region).header, region.fileno()
        same = (
            "kind",
            "flags",
            "base",
            "size",
            "data_size",
            "root",
            "root_size",
            "metadata",
            "metadata_size",
        )
        header = new_snapshot(header, "", 0, 0, region.capacity).header  # as it would be saved
        if any(getattr(header, name) != getattr(expected, name) for name in same):
            return False
        is_same = region._grant.address == expected.base
        for position, piece in self._checked():
            other = bytearray(len(piece))
            is_same = is_same and _fill(other, descriptor, position, region.name) == len(piece)
            is_same = is_same and other == piece
        return is_same

    def _checked(self) -> Iterator[tuple[int, Any]]:
        """Yield the pieces of the payload and where each begins in the image; then check the hash of all."""
        header, path = self.snapshot.header, self._path
        digest = new_hash(self._start)
        for position, piece in _pieces(self._descriptor, IMAGE, HEADER_SIZE, header.size, path):
            digest.update(piece)
            yield position, piece
        for _, piece in _pieces(self._descriptor, IMAGE, header.size, header.capacity, path):
            digest.update(piece)
        if not hmac.compare_digest(digest.digest(), self.snapshot.digest):
            raise BadRegion(f"{path}: its hash is not the one that was saved: it is damaged, or not whole")


def _pieces(descriptor: int, offset: int, start: int, end: int, what: str) -> Iterator[tuple[int, Any]]:
    """Yield the bytes from `start` to `end`, behind an offset of the file, each time in the same buffer."""
    buffer = bytearray(min(PIECE, end - start))
    while start < end:
        size = min(len(buffer), end - start)
        piece = buffer if size == len(buffer) else memoryview(buffer)[:size]
        count = _fill(piece, descriptor, offset + start, what)
        if count < size:
            raise BadRegion(
                f"{what}: it ended after {offset + start + count} bytes: it was cut off meanwhile"
            )
        yield start, piece
        start += size


def _fill(buffer: Any, descriptor: int, position: int, what: str) -> int:
    """Read into a buffer; return how many bytes there were. BadRegion: it is nothing that can be read."""
    try:
        return os.preadv(descriptor, [buffer], position)
    except OSError as error:
        if error.errno in NOT_MEMORY:
            raise BadRegion(f"{what}: it cannot be read: {error.strerror}") from None
        raise


def _is_hole(piece: Any) -> bool:
    """Whether it is a whole piece of zeros, as which a new object and a new file begin."""
    return type(piece) is bytearray and piece == _ZEROS


def _write(descriptor: int, content: Any, position: int) -> None:
    if _is_hole(content):
        return
    rest = memoryview(content)
    while rest:
        count = os.pwrite(descriptor, rest, position)
        position, rest = position + count, rest[count:]
