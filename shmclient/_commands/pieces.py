"""Large content, written to a file in pieces, so that Ctrl-C ends it and progress is seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO

CHUNK = 16 * 1024 * 1024  # bytes of a read or a write


def write(
    output: BinaryIO, parts: Iterable[bytes | bytearray | memoryview], progress: Callable[[int], object]
) -> None:
    """Write the parts, one after the other; `progress` gets the bytes that are done."""
    done = 0
    for part in parts:
        for start in range(0, len(part), CHUNK):
            piece = part[start : start + CHUNK]
            output.write(piece)
            done += len(piece)
            progress(done)
    output.flush()
