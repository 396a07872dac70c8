"""Write the buffers of a value to a descriptor with `pwritev`. Knows no region and no message."""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from shmprotocol.errors import BadRegion, ShmError
from shmprotocol.kernel.address_space import NOT_MEMORY
from shmprotocol.kernel.constants import IOV_MAX

PIECE = 16 * 1024 * 1024  # bytes between two calls of a progress function

Progress = Callable[[int], None]  # is called with the bytes that are done


def write_all(
    descriptor: int,
    start: int,
    chunks: Sequence[tuple[int, memoryview]],
    progress: Progress | None = None,
) -> None:
    """Write buffers at their offsets behind `start`; what lies between two of them stays zero.

    `progress` is called with the bytes written so far, each time that a PIECE of them is done.
    """
    buffers = [(start + offset, buffer.cast("B")) for offset, buffer in chunks]
    if progress is not None:
        buffers = [piece for chunk in buffers for piece in _pieces(*chunk)]
    pending = deque(buffers)  # a list would move all that is left each time
    done = reported = 0
    while pending:
        group = _adjacent(pending, sys.maxsize if progress is None else PIECE)
        position = group[0][0]
        written = os.pwritev(descriptor, [buffer for _, buffer in group], position)
        if not written and any(len(buffer) for _, buffer in group):
            raise OSError(errno.ENXIO, "the descriptor takes nothing")
        done += written
        if progress is not None and done >= reported + PIECE:
            reported = done
            progress(done)
        while pending and written >= len(pending[0][1]):
            written -= len(pending.popleft()[1])
        if written:
            offset, buffer = pending[0]
            pending[0] = (offset + written, buffer[written:])
    if progress is not None and done > reported:
        progress(done)


def write_memory(
    descriptor: int,
    start: int,
    chunks: Sequence[tuple[int, memoryview]],
    progress: Progress | None = None,
) -> None:
    """Do what `write_all` does; BadRegion where the host sent a descriptor that is not one of memory."""
    try:
        write_all(descriptor, start, chunks, progress)
    except OSError as error:
        raise_unless_memory(error)
        raise


def raise_unless_memory(error: OSError) -> None:
    """Raise BadRegion if this is the error of a write to a descriptor that is not one of memory."""
    if error.errno in NOT_MEMORY and not isinstance(error, ShmError):
        raise BadRegion(f"the host sent another descriptor than one of memory: {error}") from None


def joined(chunks: Sequence[tuple[int, memoryview]], progress: Progress | None = None) -> bytes:
    """Return what `write_all` would write, zeros in between; `progress` gets the bytes of the chunks."""
    parts: list[bytes | memoryview] = []
    end = 0
    for offset, buffer in chunks:
        parts += [bytes(offset - end), buffer] if offset > end else [buffer]
        end = offset + buffer.nbytes
    if progress is not None:
        progress(sum(buffer.nbytes for _, buffer in chunks))
    return b"".join(parts)


def _pieces(offset: int, buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    for start in range(0, max(len(buffer), 1), PIECE):
        yield offset + start, buffer[start : start + PIECE]


def _adjacent(pending: Sequence[tuple[int, memoryview]], limit: int) -> list[tuple[int, memoryview]]:
    """Return the first buffers as long as each begins where the one before ends, of `limit` bytes at most."""
    group = [pending[0]]
    start = pending[0][0]
    for offset, buffer in itertools.islice(pending, 1, IOV_MAX):
        last_offset, last = group[-1]
        if last_offset + len(last) != offset or offset + len(buffer) - start > limit:
            break
        group.append((offset, buffer))
    return group
