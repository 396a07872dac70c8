"""The layout of a payload: each item at a multiple of 64. Knows no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ALIGNMENT = 64  # a cache line, and the widest vector loads


@dataclass(slots=True)
class Encoded:
    """A payload to be written: buffers with their offsets, in bytes, and their description."""

    metadata: bytes
    size: int = 0
    chunks: list[tuple[int, memoryview]] = field(default_factory=list)


class Layout:
    """Assigns each buffer its offset."""

    def __init__(self) -> None:
        self.size = 0
        self.chunks: list[tuple[int, memoryview]] = []

    def place(self, buffer: memoryview) -> dict[str, int]:
        """Append a buffer of bytes; return its offset and size."""
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + buffer.nbytes
        if buffer.nbytes:
            self.chunks.append((offset, buffer))
        return {"offset": offset, "size": buffer.nbytes}


def slice_of(item: Mapping[str, Any], data: memoryview) -> memoryview:
    """Return the bytes that a description refers to; ValueError unless they lie inside the payload."""
    offset, size = item["offset"], item["size"]
    if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size <= len(data):
        raise ValueError(f"{size!r} bytes at {offset!r} are not inside of {len(data)}")
    return data[offset : offset + size]
