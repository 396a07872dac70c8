"""The arguments of `mmap`, checked before the system call: pure, except for an fstat of the descriptor."""

from __future__ import annotations

import errno
import fcntl
import mmap as _mmap
import os
import stat

from shmclient.posix import _emulation as emulation
from shmclient.posix._errors import check_flags, check_size, failure
from shmprotocol.native.binding import lib
from shmprotocol.tuples import NamedTuple


class Request(NamedTuple):
    """Arguments of mmap(2), in its order; for a shared mapping also its object and writability.

    `may_write` says whether mprotect(2) could allow writing, regardless of `prot`.
    """

    address: int
    length: int
    prot: int
    flags: int
    fd: int
    offset: int
    object: emulation.Identity | None
    may_write: bool

    @property
    def is_shared(self) -> bool:
        """Whether others see what is written."""
        return _is_shared(self.flags)

    def __str__(self) -> str:
        return (
            f"mmap of {self.length} bytes at {self.address:#x}, protection {self.prot:#x}, flags "
            f"{self.flags:#x}, descriptor {self.fd}, offset {self.offset}"
        )


def check_request(
    address: int | None, length: int, prot: int, flags: int, fd: int, offset: int, *, exact: bool
) -> Request:
    """Return a request with good arguments; `exact`: at this address or nowhere. OSError, TypeError."""
    start = 0 if address is None else check_size(address, "address")
    check_size(length, "length", 1)
    check_size(offset, "offset")
    check_flags(prot, "protection")
    check_flags(flags, "flags")
    if start and exact:
        flags |= lib.MAP_FIXED_NOREPLACE
    if flags & lib.MAP_FIXED_NOREPLACE and not start:
        raise failure(errno.EINVAL, "mmap at page 0, the target of every null pointer")
    if flags & _mmap.MAP_ANONYMOUS:
        return Request(start, length, prot, flags, _ignored(fd), offset, None, True)
    which = emulation.identity(fd)
    _check_end(fd, offset + length, prot)
    if not _is_shared(flags):
        return Request(start, length, prot, flags, fd, offset, None, True)
    may_write = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    return Request(start, length, prot, flags, fd, offset, which, may_write)


def _is_shared(flags: int) -> bool:
    return flags & lib.MAP_TYPE in (_mmap.MAP_SHARED, lib.MAP_SHARED_VALIDATE)


def _ignored(fd: int) -> int:
    """Return the descriptor that anonymous memory does without; it must be a number all the same."""
    if not isinstance(fd, int):
        raise TypeError(f"a descriptor is an int, not a {type(fd).__name__}")
    if not -(1 << 31) <= fd < 1 << 31:
        raise failure(errno.EBADF, f"descriptor {fd}")
    return fd


def _check_end(fd: int, end: int, prot: int) -> None:
    """Refuse a mapping that goes beyond the last page of an object: to use it would raise SIGBUS."""
    status = os.fstat(fd)
    pages = -(-status.st_size // _mmap.PAGESIZE) * _mmap.PAGESIZE
    if prot and stat.S_ISREG(status.st_mode) and end > pages:
        raise failure(
            errno.ENXIO, f"a mapping up to byte {end} of descriptor {fd}, which has {status.st_size} bytes"
        )
