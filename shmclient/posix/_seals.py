"""Seals: the kernel's (fcntl F_ADD_SEALS), and those that this process keeps where there are none."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator

from shmclient.posix import _emulation as emulation
from shmclient.posix._emulation import (
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
    SEALS,
    Identity,
)
from shmclient.posix._errors import check_flags, failure
from shmclient.posix._mappings import MAPPINGS

_KNOWN = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | F_SEAL_EXEC


def add_seals(fd: int, seals: int) -> None:
    """Add seals (F_SEAL_*) to an object; none can be taken off again. See fcntl(2).

    PermissionError (EPERM): it is sealed against more seals, or the descriptor is read-only. EBUSY:
    F_SEAL_WRITE while a writable shared mapping of it lives, in any process.
    """
    check_flags(seals, "seals")
    identity = emulation.identity(fd)
    try:
        if identity in SEALS:
            _add_emulated(fd, identity, seals)
        else:
            fcntl.fcntl(fd, _kernel("F_ADD_SEALS"), seals)
    except OSError as error:
        raise failure(
            error.errno or 0, f"seals {seals:#x} for descriptor {fd}{_why(error, identity)}"
        ) from None


def get_seals(fd: int) -> int:
    """Return the seals of an object; F_SEAL_SEAL alone when it was not made for them. EINVAL: no memfd."""
    identity = emulation.identity(fd)
    if identity in SEALS:
        return SEALS[identity]
    try:
        return fcntl.fcntl(fd, _kernel("F_GET_SEALS"))
    except OSError as error:
        raise failure(error.errno or 0, f"the seals of descriptor {fd}") from None


def emulate(fd: int, seals: int) -> None:
    """Keep the seals of an object in this process from now on."""
    SEALS[emulation.identity(fd)] = seals


def forget(fd: int) -> None:
    """Drop the seals kept for an object if this is its last descriptor here. OSError: not open."""
    identity = emulation.identity(fd)
    if identity in SEALS:
        with contextlib.suppress(OSError):  # no descriptor is left to list them: keep it
            if sum(other == identity for other in _open_objects()) == 1:
                del SEALS[identity]


def check_resize(fd: int, length: int) -> None:
    """Raise EPERM when a seal kept here forbids a size."""
    status = emulation.object_status(fd)
    seals = SEALS.get((status.st_dev, status.st_ino), 0)
    forbidden = F_SEAL_SHRINK if length < status.st_size else F_SEAL_GROW if length > status.st_size else 0
    if seals & forbidden:
        raise failure(errno.EPERM, f"ftruncate of descriptor {fd} from {status.st_size} to {length} bytes")


def _add_emulated(fd: int, identity: Identity, seals: int) -> None:
    if seals & ~_KNOWN:
        raise OSError(errno.EINVAL, "")
    is_read_only = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    if SEALS[identity] & F_SEAL_SEAL or is_read_only:
        raise OSError(errno.EPERM, "")
    is_new = seals & F_SEAL_WRITE and not SEALS[identity] & F_SEAL_WRITE
    with MAPPINGS.gate.draining, MAPPINGS.gate.lock:
        if is_new and MAPPINGS.writable(identity):
            raise OSError(errno.EBUSY, "")
        SEALS[identity] |= seals


def _why(error: OSError, identity: Identity) -> str:
    """Name the mappings of this process that conflict, if there may be some."""
    if error.errno != errno.EBUSY:
        return ""
    with MAPPINGS.gate.draining, MAPPINGS.gate.lock:
        mappings = ", ".join(map(repr, MAPPINGS.writable(identity)))
    return f" ({mappings or 'no mapping of this process by shmclient.posix'} may be written)"


def _open_objects() -> Iterator[Identity]:
    for name in os.listdir("/dev/fd"):
        try:
            yield emulation.identity(int(name))
        except OSError:
            continue  # that of the listing itself


def _kernel(name: str) -> int:
    if not hasattr(fcntl, name):
        raise OSError(errno.EINVAL, f"{sys.platform} has no seals")
    return int(getattr(fcntl, name))
