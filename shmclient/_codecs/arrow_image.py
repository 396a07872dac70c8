"""An image of C structs: words some of which are pointers, and the buffers behind them. Knows no Arrow."""

from __future__ import annotations

from array import array
from typing import Any

from shmclient._codecs.layout import Layout, Pointers

Key = tuple[int, int]  # where a buffer lies, and its bytes
_SIGN = (1 << 64) - 1


class Image:
    """Words, addressed by their index; a pointer leads to another word, or to a buffer."""

    def __init__(self) -> None:
        self.words = array("Q")
        self._inner: list[int] = []  # words that point to words, as offsets in bytes
        self._buffers: list[tuple[int, Any, Key | None]] = []  # words that point to buffers

    def allocate(self, count: int) -> int:
        """Return the index of the first of `count` new words."""
        start = len(self.words)
        self.words.frombytes(bytes(8 * count))
        return start

    def set(self, at: int, *values: int) -> None:
        """Set words to numbers, which may be negative."""
        for index, value in enumerate(values, at):
            self.words[index] = value & _SIGN

    def point(self, at: int, target: int) -> None:
        """Have a word lead to another one."""
        self.words[at] = 8 * target
        self._inner.append(at)

    def refer(self, at: int, buffer: Any, key: Key | None = None) -> None:
        """Have a word lead to a buffer of bytes. Those of the same key are stored once."""
        self._buffers.append((at, buffer, key))

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
        for at, buffer, key in self._buffers:
            size = len(buffer)
            target = places.get(key) if key else None
            if target is None:
                target = layout.append(buffer, size) if size else offset
                if key:
                    places[key] = target
            self.words[at] = target
        layout.pointers.append(Pointers(self.words, [*self._inner, *(at for at, _, _ in self._buffers)]))
        return offset, layout.size - offset
