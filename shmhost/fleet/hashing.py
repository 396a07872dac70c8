"""The hash tree of a payload: one hash for each chunk, and one over these, which is announced. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from shmprotocol.errors import HostError
from shmprotocol.kernel.constants import GIB, MIB

HASH_SIZE = 32  # of BLAKE3
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


def leaf_hasher() -> Any:
    """Return what hashes a chunk: `update`, and at last `digest`."""
    return hasher()(derive_key_context="shmhost fleet leaf")


def leaf(data: bytes | memoryview) -> bytes:
    """Return the hash of a chunk."""
    return bytes(leaf_hasher().update(data).digest())


def root_of(size: int, leaves: Sequence[bytes]) -> bytes:
    """Return the hash over the leaves, and over the size of the payload."""
    data = b"".join((size.to_bytes(8, "little"), *leaves))
    return bytes(hasher()(data, derive_key_context="shmhost fleet root").digest())


def split(size: int, root: bytes, data: bytes) -> list[bytes] | None:
    """Return the leaves in an answer; None if they are not those of this root."""
    if len(data) != HASH_SIZE * chunk_count(size):
        return None
    leaves = [data[start : start + HASH_SIZE] for start in range(0, len(data), HASH_SIZE)]
    return leaves if root_of(size, leaves) == root else None


@functools.cache
def hasher() -> Callable[..., Any]:
    """Return the class of BLAKE3; HostError: it is not installed."""
    # † 5.5 GiB/s by AVX-512, where SHA-256 with instructions of its own has 1.65 (2026-11).
    try:
        from blake3 import blake3
    except ModuleNotFoundError as error:
        raise HostError(f"{error}: a fleet needs blake3: pip install 'shmhost[fleet]'") from None
    return blake3
