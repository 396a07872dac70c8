"""The layout of a payload: each item at a multiple of 64. Knows no format."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shmprotocol.tuples import NamedTuple

ALIGNMENT = 64  # a cache line, and the widest vector loads
GATHERED_MAX = 4096  # bytes of a buffer that is copied beside others: writing it by itself costs as much
PIECE = 1024 * 1024  # bytes of such copies in one chunk

Maker = Callable[[memoryview, int, int], Any]  # makes a value over `size` bytes of the data, from `offset` on


class Pointers(NamedTuple):
    """Words of a payload some of which are pointers into it: offsets until the payload has an address."""

    words: array[int]
    slots: Sequence[int]  # the words that are pointers


class Encoded:
    """A payload to be written: buffers with their offsets, in bytes, and their description.

    The metadata is among the buffers if `metadata_at` says where; else it goes behind the data. A payload
    with pointers is written after `move`; its `root` is an offset and a size.
    """

    def __init__(
        self,
        metadata: bytes,
        size: int = 0,
        chunks: Sequence[tuple[int, memoryview]] = (),
        metadata_at: int | None = None,
        pointers: Sequence[Pointers] = (),
        root: tuple[int, int] | None = None,
        keepers: object = None,
    ) -> None:
        self.metadata = metadata
        self.size = size
        self.chunks = list(chunks)
        self.metadata_at = metadata_at
        self.pointers = pointers
        self.root = root
        self.keepers = keepers  # of memory that the chunks refer to without keeping it
        self._address = 0

    def move(self, address: int) -> None:
        """Have the pointers be right for a payload at this address; may be called again, for another."""
        distance = address - self._address
        for words, slots in self.pointers:
            for slot in slots:
                words[slot] += distance
        self._address = address

    def write(self, buffer: Any) -> None:
        """Copy the payload into a buffer that can be written."""
        with memoryview(buffer) as view:
            for offset, chunk in self.chunks:
                view[offset : offset + chunk.nbytes] = chunk.cast("B") if chunk.nbytes else b""

    def root_at(self, address: int) -> tuple[int, int]:
        """Return address and size of the root of a payload at this address; zeros: it has none."""
        return (0, 0) if self.root is None else (address + self.root[0], self.root[1])


class Layout:
    """Assigns each buffer its offset, and gathers small ones: 100,000 of 1 KiB are 100 chunks."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[tuple[int, memoryview]] = []
        self._gathered: list[Any] = []  # adjacent buffers, with what fills the gaps between them
        self._start = self._end = 0  # the offset of the first, and behind the last
        self.pointers: list[Pointers] = []
        self.root: tuple[int, int] | None = None  # offset and size of that of a value that has one
        self.keepers: list[object] = []  # of memory that buffers refer to without keeping it

    def place(self, buffer: memoryview) -> dict[str, int]:
        """Append a buffer of bytes; return its offset and size."""
        return {"offset": self.append(buffer, buffer.nbytes), "size": buffer.nbytes}

    def append(self, buffer: Any, size: int) -> int:
        """Append a contiguous buffer, of bytes if it has more than GATHERED_MAX; return its offset."""
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + size
        if not size:
            return offset
        if size > GATHERED_MAX or offset - self._start >= PIECE:
            self._flush()
        if size > GATHERED_MAX:
            self._chunks.append((offset, memoryview(buffer)))
            return offset
        if not self._gathered:
            self._start = offset
        elif offset > self._end:
            self._gathered.append(bytes(offset - self._end))
        self._gathered.append(buffer)
        self._end = self.size
        return offset

    def reserve(self, words: array[int]) -> int:
        """Append words that are set later; return their offset."""
        self._flush()
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + len(words) * words.itemsize
        self._chunks.append((offset, memoryview(words).cast("B")))
        return offset

    def lead(self, buffers: Sequence[bytes]) -> None:
        """Put buffers in front of all others, each at a multiple of ALIGNMENT."""
        self._flush()
        chunks = self._chunks
        start, self._chunks = 0, []
        for buffer in buffers:
            self._chunks.append((start, memoryview(buffer)))
            start += -(-len(buffer) // ALIGNMENT) * ALIGNMENT
        self._chunks += [(start + offset, buffer) for offset, buffer in chunks]
        self.size += start
        for words, slots in self.pointers:
            for slot in slots:
                words[slot] += start
        last, content = self._chunks[-1]
        end = last + content.nbytes
        if end < self.size:  # an empty value is the last
            self._chunks.append((end, memoryview(bytes(self.size - end))))

    def finish(self) -> list[tuple[int, memoryview]]:
        """Return the buffers with their offsets."""
        self._flush()
        return self._chunks

    def encoded(self, metadata: bytes, metadata_at: int | None = None, *, has_root: bool = False) -> Encoded:
        """Return the payload. Its root is that of its only value: one made of others has none."""
        root = self.root if has_root else None
        chunks = self.finish()
        return Encoded(metadata, self.size, chunks, metadata_at, self.pointers, root, self.keepers)

    def _flush(self) -> None:
        if self._gathered:
            first = self._gathered[0]
            is_alone = len(self._gathered) == 1 and isinstance(first, bytes | memoryview)
            content = first if is_alone else b"".join(self._gathered)
            self._chunks.append((self._start, memoryview(content)))
            self._gathered = []


def next_offset(layout: Layout) -> int:
    """Return the offset that the next buffer will have."""
    return -(-layout.size // ALIGNMENT) * ALIGNMENT


def place_of(item: Mapping[str, Any], data: memoryview) -> tuple[int, int]:
    """Return offset and size of what a description refers to; ValueError unless it is inside the data."""
    offset, size = item["offset"], item["size"]
    if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size <= len(data):
        raise ValueError(f"{size!r} bytes at {offset!r} are not inside of {len(data)}")
    return offset, size
