"""The hash tree of a payload: one hash for each chunk, and one over these, which is announced. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from shmprotocol.kernel.constants import GIB, MIB

HASH_SIZE = 32  # of SHA-256
SMALL, LARGE = MIB, 4 * MIB  # bytes of a chunk; the last one of a payload may be shorter
LARGE_FROM = GIB  # payloads of so many bytes have large ones, so that there are not too many


def chunk_size(size: int) -> int:
    """Return the bytes of a chunk of a payload of this size."""
    return LARGE if size >= LARGE_FROM else SMALL


def chunk_count(size: int) -> int:
    """Return the number of chunks of a payload, which has at least one byte."""
    return -(-size // chunk_size(size))


def part(size: int, index: int) -> tuple[int, int]:
    """Return the offset of a chunk in its payload, and its size."""
    step = chunk_size(size)
    return index * step, min(step, size - index * step)


def leaf(data: bytes) -> bytes:
    """Return the hash of a chunk."""
    # † 1.8 GB/s where the CPU has instructions for it, twice as fast as BLAKE2b (2026-11).
    digest = hashlib.sha256(b"shmhost:leaf")
    digest.update(data)
    return digest.digest()


def root_of(size: int, leaves: Sequence[bytes]) -> bytes:
    """Return the hash over the leaves, and over the size of the payload."""
    tree = hashlib.sha256(b"shmhost:root" + size.to_bytes(8, "little"))
    for each in leaves:
        tree.update(each)
    return tree.digest()


def split(size: int, root: bytes, data: bytes) -> list[bytes] | None:
    """Return the leaves in an answer; None if they are not those of this root."""
    if len(data) != HASH_SIZE * chunk_count(size):
        return None
    leaves = [data[start : start + HASH_SIZE] for start in range(0, len(data), HASH_SIZE)]
    return leaves if root_of(size, leaves) == root else None
