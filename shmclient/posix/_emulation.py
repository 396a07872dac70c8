"""Seals that this process keeps for objects of a system without them. They bind this package alone."""

from __future__ import annotations

import os

from shmclient.posix._errors import check_descriptor, failure
from shmprotocol.native.binding import lib

F_SEAL_SEAL = 0x1
F_SEAL_SHRINK = 0x2
F_SEAL_GROW = 0x4
F_SEAL_WRITE = 0x8
F_SEAL_FUTURE_WRITE = lib.F_SEAL_FUTURE_WRITE
F_SEAL_EXEC = lib.F_SEAL_EXEC

# Device and inode: a duplicate of a descriptor shares them, a reused number does not.
Identity = tuple[int, int]

SEALS: dict[Identity, int] = {}  # single operations on it are atomic; a forked child has a copy


def identity(fd: int) -> Identity:
    """Return which object a descriptor is of; EBADF when it is not open."""
    status = object_status(fd)
    return status.st_dev, status.st_ino


def object_status(fd: int) -> os.stat_result:
    """Return what the system knows of a descriptor's object; EBADF when it is not open."""
    try:
        return os.fstat(check_descriptor(fd))
    except OSError as error:
        raise failure(error.errno or 0, f"descriptor {fd}") from None


def forbids_writing(which: Identity | None) -> bool:
    """Whether a seal kept here forbids new writable shared mappings of an object."""
    return which is not None and bool(SEALS.get(which, 0) & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
