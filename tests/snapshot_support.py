"""Snapshots for tests: files that are forged, with a hash that is right all the same."""

from __future__ import annotations

from pathlib import Path

from shmprotocol.abi.snapshot import IMAGE, START, Snapshot, new_hash, read_start


def read(path: Path) -> Snapshot:
    """Return what a file says of itself."""
    data = path.read_bytes()
    return read_start(data[:START], len(data))


def hashed(data: bytes) -> bytes:
    """Return the bytes of a file with the hash that they should have."""
    digest = new_hash(data[:START])
    digest.update(data[START:])
    return data[:40] + digest.digest() + data[72:]


def forge(path: Path, offset: int, patch: bytes) -> None:
    """Change bytes of a file, and its hash with them."""
    data = bytearray(path.read_bytes())
    data[offset : offset + len(patch)] = patch
    path.write_bytes(hashed(bytes(data)))


def header_field(offset: int) -> int:
    """Return where a field of the region's header page is in the file."""
    return IMAGE + offset
