"""An image of C structs: words some of which are pointers, and the buffers behind them. Knows no Arrow."""

from __future__ import annotations

import struct
from array import array
from typing import Any

from shmclient._codecs.layout import Layout, Pointers

Key = int  # where a buffer lies, and its bytes; not a tuple, which the garbage collector would look at
_packers = [struct.Struct(f"={count}q").pack_into for count in range(8)]


class Image:
    """Words, addressed by their index; a pointer leads to another word, or to a buffer."""

    def __init__(self) -> None:
        self.words = array("Q")
        self._inner: list[int] = []  # words that point to words, as offsets in bytes
        # Words that point to buffers, and these; three lists, as the garbage collector looks at each tuple.
        self._outer: list[int] = []
        self._buffers: list[Any] = []
        self._keys: list[Key | None] = []

    def allocate(self, count: int) -> int:
        """Return the index of the first of `count` new words."""
        start = len(self.words)
        self.words.frombytes(bytes(8 * count))
        return start

    def set(self, at: int, *values: int) -> None:
        """Set up to seven words to numbers of 63 bits, which may be negative."""
        _packers[len(values)](self.words, 8 * at, *values)

    def point(self, at: int, target: int) -> None:
        """Have a word lead to another one."""
        self.words[at] = 8 * target
        self._inner.append(at)

    def refer(self, at: int, buffer: Any, key: Key | None = None) -> None:
        """Have a word lead to a buffer of bytes. Those of the same key are stored once."""
        self._outer.append(at)
        self._buffers.append(buffer)
        self._keys.append(key)

    def text(self, at: int, text: bytes) -> None:
        """Have a word lead to bytes, which are copied."""
        target = len(self.words)
        self.words.frombytes(text + bytes(-len(text) % 8))
        self.point(at, target)

    def children(self, at: int, count: int, size: int) -> int:
        """Have a word lead to pointers to `count` structs of `size` words; return the index of the first."""
        pointers = self.allocate(count * (1 + size))
        first = pointers + count
        for number in range(count):
            self.point(pointers + number, first + number * size)
        self.point(at, pointers)
        return first

    def place(self, layout: Layout) -> tuple[int, int]:
        """Add all to a layout, each buffer once; return offset and size. An empty buffer is at the start."""
        offset = layout.reserve(self.words)
        for at in self._inner:
            self.words[at] += offset
        places: dict[Key, int] = {}
        for at, buffer, key in zip(self._outer, self._buffers, self._keys, strict=True):
            size = len(buffer)
            target = places.get(key) if key else None
            if target is None:
                target = layout.append(buffer, size) if size else offset
                if key:
                    places[key] = target
            self.words[at] = target
        layout.pointers.append(Pointers(self.words, [*self._inner, *self._outer]))
        return offset, layout.size - offset
