"""Calls that a client can make wait as long as it likes, by the lock of an object: threads apart make them.

The kernel ends no thread that waits for such a lock, not even one of a process that is killed. These have no
descriptor but the object's (see `builtins.Sealer`), so that the next host finds the socket and the lock free.
The caller waits, too, but in a way that ends with the process. Not for the event loop.
"""

from __future__ import annotations

import os

from shmhost.core.work import Sealing
from shmprotocol.native import builtins

FAILED_SYSTEM, FAILED_SIZE = 1, 2  # see `Sealer`


def change(sealing: Sealing) -> int:
    """Do what a sealer does, and wait for it; return what failed. OSError: a call did."""
    sealer = builtins.Sealer()
    said = sealer.seal(*sealing, 0) or sealer.take()
    assert said is not None
    failed, error = said
    if failed == FAILED_SYSTEM:
        raise OSError(error, os.strerror(error))
    return failed


def resize(descriptor: int, size: int) -> None:
    """Give an object another size. OSError."""
    change(Sealing(descriptor, descriptor, True, size, b"", 0))


def add_seals(descriptor: int, seals: int) -> None:
    """Add seals to an object. OSError."""
    change(Sealing(descriptor, descriptor, False, 0, b"", seals))


def write_header(descriptor: int, header: bytes) -> None:
    """Write the header of an object. OSError."""
    change(Sealing(descriptor, descriptor, False, 0, header, 0))
