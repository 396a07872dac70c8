"""Memory objects: the kernel's side of a region. Creates, seals, reopens and closes; knows no name rules.

An object owns its descriptors until `close`. A write descriptor exists until publish, a read-only one
from then on. A read-only descriptor alone protects nothing (any process can reopen a memfd through
/proc/self/fd as far as its mode allows): the seals do, memfd_create(2), fcntl(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from pathlib import Path
from urllib.parse import quote

from shmprotocol import memory
from shmprotocol.errors import InvalidArgument, OutOfMemory, RegionBusy

MFD_NOEXEC_SEAL = 0x08  # linux/memfd.h, Linux 6.3
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h, Linux 5.1; Python 3.11 has no name for it
_SHAPE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SEALS = {
    "full": fcntl.F_SEAL_WRITE | _SHAPE | fcntl.F_SEAL_SEAL,
    "writer": F_SEAL_FUTURE_WRITE | _SHAPE | fcntl.F_SEAL_SEAL,
}
_FLAGS = {"full": memory.FLAG_SEAL_FULL, "writer": memory.FLAG_SEAL_WRITER}
SHM_FOLDER = Path("/dev/shm")


class Memfd:
    """An anonymous object that only its descriptors reach (the default)."""

    def __init__(self, name: str, capacity: int) -> None:
        self.capacity = capacity
        self._reader = -1
        self._writer = _memfd("shmhost:" + name.encode()[:200].decode(errors="ignore"))
        try:
            os.ftruncate(self._writer, capacity)
            fcntl.fcntl(self._writer, fcntl.F_ADD_SEALS, _SHAPE)
            # Whoever has a read-only descriptor may open it once more, for an offset of its own or to map it
            # when the creator's is read-write; nobody gets a writable one that way.
            os.fchmod(self._writer, 0o444)
        except OSError as error:
            self.close()
            raise _out_of_memory(error, capacity) from None

    def flag(self, seal: str) -> int:
        """Return the header flag that says what protects this object."""
        return _FLAGS[seal]

    def writer(self) -> int:
        """Return the read-write descriptor, which stays the object's."""
        return self._writer

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""
        return self._reader

    def publish(self, header: bytes, seal: str) -> None:
        """Write the header, add the seals, and keep a read-only descriptor in place of the other.

        RegionBusy when a writable mapping lives; the object is then as unpublished as before.
        """
        _write_header(self._writer, header)
        try:
            fcntl.fcntl(self._writer, fcntl.F_ADD_SEALS, _SEALS[seal])
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            raise RegionBusy(
                "a writable mapping of the region lives, in its creator or in a child that was forked "
                "meanwhile: close it (or end the child) and publish again, or use seal='writer'"
            ) from None
        # The creator could write until the seals were on: what counts is what is there now.
        if seal == "full" and os.pread(self._writer, len(header), 0) != header:
            raise InvalidArgument("the creator wrote over the header page while it was published")
        self._reader = _reopen(self._writer)
        os.close(self._writer)
        self._writer = -1

    def close(self) -> None:
        """Close what is open. The last close of a large object takes milliseconds: it frees the pages."""
        for descriptor in (self._writer, self._reader):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._reader = -1


class PosixShm:
    """A named object in /dev/shm, for programs that know only shm_open(3).

    tmpfs files take no seals: whoever holds the creator's descriptor can write and shrink it for ever.
    Its space is reserved here, so that a full tmpfs is an error now and not SIGBUS later.
    """

    def __init__(self, name: str, capacity: int, prefix: str) -> None:
        self.capacity = capacity
        self._reader = -1
        self._final = SHM_FOLDER / f"{prefix}.{quote(name, safe='')}"
        if len(self._final.name.encode()) > 255:
            raise InvalidArgument(f"{name[:40]!r}... is too long for the shm backend: {self._final.name}")
        self._path = SHM_FOLDER / f"{prefix}-new.{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._writer = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(self._writer, 0, capacity)
        except OSError as error:
            self.close()
            raise _out_of_memory(error, capacity) from None

    def flag(self, seal: str) -> int:
        """Return the header flag that says that nothing protects this object."""
        return memory.FLAG_UNSEALED

    def writer(self) -> int:
        """Return the read-write descriptor, which stays the object's."""
        return self._writer

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""
        return self._reader

    def publish(self, header: bytes, seal: str) -> None:
        """Write the header and give the object its name, in place of an older generation's."""
        _write_header(self._writer, header)
        self._reader = _reopen(self._writer)
        os.rename(self._path, self._final)
        self._path = self._final
        os.close(self._writer)
        self._writer = -1

    def close(self) -> None:
        """Remove the name, if it is still this object's, and close what is open."""
        descriptor = max(self._writer, self._reader)
        if descriptor >= 0 and _same_file(self._path, descriptor):
            self._path.unlink()
        for descriptor in (self._writer, self._reader):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._reader = -1


MemoryObject = Memfd | PosixShm


def _memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        try:
            return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.memfd_create(name, flags)  # Linux before 6.3
    except OSError as error:
        raise _out_of_memory(error, 0) from None


def _write_header(descriptor: int, header: bytes) -> None:
    if os.pwrite(descriptor, header, 0) != len(header):
        raise OutOfMemory("the header page could not be written: no memory is left")


def _reopen(descriptor: int) -> int:
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _out_of_memory(error: OSError, capacity: int) -> OutOfMemory:
    return OutOfMemory(f"the host cannot make an object of {capacity} bytes: {error.strerror}")
