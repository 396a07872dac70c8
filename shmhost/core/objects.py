"""Memory objects: the kernel's side of a region. Creates, seals, reopens and closes; knows no name rules.

An object owns its descriptors until `close`: a read-only one, and until it is published a read-write one. A
shared object keeps that.
Both are made before the creator has any, so that publishing needs no new descriptor, and so that no lease of
the creator's (F_SETLEASE, fcntl(2)) can make an open wait. A read-only descriptor alone protects nothing
(any process can reopen a memfd through /proc/self/fd as far as its mode allows): the seals do.
A refusal of the system is raised as a ShmError that says what to do.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Protocol

from shmhost.core import apart
from shmhost.core.apart import FAILED_SIZE, FAILED_SYSTEM
from shmhost.core.work import Sealing
from shmprotocol.abi.header import FLAG_SEAL_FULL, FLAG_SEAL_SHARED, FLAG_SEAL_WRITER, FLAG_UNSEALED
from shmprotocol.errors import InvalidArgument, OutOfMemory, RegionBusy, RegionExists, ShmError, Unsupported
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE, MFD_NOEXEC_SEAL
from shmprotocol.native import builtins
from shmprotocol.wire.names import Seal

_SHAPE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
SEALS = {  # by which an object is protected from its publish on
    Seal.FULL: fcntl.F_SEAL_WRITE | _SHAPE | fcntl.F_SEAL_SEAL,
    Seal.WRITER: F_SEAL_FUTURE_WRITE | _SHAPE | fcntl.F_SEAL_SEAL,
    Seal.SHARED: _SHAPE | fcntl.F_SEAL_SEAL,
}
ARENA_SEALS = fcntl.F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL  # likewise, of an arena
_FLAGS = {Seal.FULL: FLAG_SEAL_FULL, Seal.WRITER: FLAG_SEAL_WRITER, Seal.SHARED: FLAG_SEAL_SHARED}
SHM_FOLDER = Path("/dev/shm")
_CURES = {
    errno.EMFILE: "give the host more descriptors (ulimit -n, LimitNOFILE=), or unlink regions",
    errno.ENFILE: "the whole system has no descriptor left, see fs.file-max",
    errno.ENOMEM: "free memory, or unlink regions",
    errno.ENOSPC: "free space or inodes of /dev/shm, or unlink regions",
    errno.EDQUOT: "raise the quota of the host's user, or unlink regions",
    errno.ETOOMANYREFS: "have clients of this user read what waits for them, or try again",
    errno.EAGAIN: "give the host more threads (ulimit -u, TasksMax=), or try again",
    errno.EFBIG: "raise the host's limit of file sizes (ulimit -f)",
    errno.EROFS: "mount /dev/shm writable for the host, or use the memfd backend",
    errno.ENOENT: "mount a tmpfs on /dev/shm and /proc for the host, or use the memfd backend",
    errno.EACCES: "let the host's user write to /dev/shm, or use the memfd backend",
}
_SCARCE = frozenset(_CURES) - {errno.EROFS, errno.ENOENT, errno.EACCES}


class Memfd:
    """An anonymous object that only its descriptors reach (the default). Without a name, it is a spare's.

    A spare cannot grow, so that its charge is exact, but it can shrink until it is published: `cut` and
    `empty` do that, and its client could.
    """

    __slots__ = ("_reader", "_writer", "capacity", "is_spare")
    shape = _SHAPE  # the seals of its size
    can_grow = False

    def __init__(self, name: str, capacity: int) -> None:
        self.capacity: int = capacity
        self.is_spare: bool = not name
        self._reader = self._writer = -1
        try:
            if self.is_spare:
                self._writer, self._reader = builtins.make_spare(b"shmhost:spare", capacity)
                return
            label = name.encode()[:200].decode(errors="ignore")
            self._writer = new_memfd("shmhost:" + label)
            os.ftruncate(self._writer, capacity)
            fcntl.fcntl(self._writer, fcntl.F_ADD_SEALS, self.shape)
            # A process with a read-only descriptor may open it once more, for its own offset or to map it
            # when the creator's is read-write; it cannot get a writable one that way.
            os.fchmod(self._writer, 0o444)
            self._reader = _reopen(self._writer)
        except OSError as error:
            self.close()
            raise not_made(capacity, error) from None

    def flag(self, seal: Seal) -> int:
        """Return the header flag that says what protects this object."""
        return _FLAGS[seal]

    def writer(self) -> int:
        """Return the read-write descriptor, which stays the object's."""
        return self._writer

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""
        return self._reader

    def publish(self, header: bytes, seal: Seal) -> None:
        """Write the header, add the seals, and close the read-write descriptor, unless it is for writers.

        Not for the event loop: it waits while pages are in use by I/O, and while the creator holds the
        object's lock. After any error the object is as unpublished as before. RegionBusy when pages are
        in use or a writable mapping lives.
        """
        try:
            failed = apart.change(self.sealing(self.capacity, header, seal))
        except OSError as error:
            raise _not_sealed(error) from None
        self.was_sealed(self.capacity, failed, 0, seal)

    def sealing(self, capacity: int, header: bytes, seal: Seal) -> Sealing:
        """Return what a sealer is to do: what `cut` and `publish` do. A growing one has less than that."""
        seals, size = SEALS[seal] & ~_SHAPE | self.shape, min(capacity, self.capacity)
        return Sealing(self._writer, self._reader, size < self.capacity, size, header, seals)

    def was_sealed(self, capacity: int, failed: int, number: int, seal: Seal = Seal.FULL) -> None:
        """Take what the sealer says; the errors are those of `cut` and `publish`."""
        if failed == FAILED_SYSTEM:
            raise _not_sealed(OSError(number, os.strerror(number)))
        if failed == FAILED_SIZE:
            raise InvalidArgument("the creator changed the size of the object: create it again")
        if failed:
            raise _overwritten()
        self.capacity = min(capacity, self.capacity)
        if seal is not Seal.SHARED and not self.can_grow:
            os.close(self._writer)
            self._writer = -1

    def cut(self, capacity: int) -> None:
        """Cut a spare to the size that it is published with. Not for the event loop, as `publish`."""
        if capacity < self.capacity:
            try:
                apart.resize(self._writer, capacity)
            except OSError as error:
                raise _not_sealed(error) from None
            self.capacity = capacity

    def empty(self) -> None:
        """Take all memory from a spare, which cannot grow again, whoever has a descriptor of it.

        Not for the event loop: a creator that writes makes it wait. OSError: the creator has sealed it.
        """
        apart.resize(self._writer, 0)

    @classmethod
    def sealed(cls, name: str, capacity: int, header: bytes, data: bytes, part: tuple[int, int]) -> Memfd:
        """Return a published object of a header and a part of the data, which has a start and a size.

        Quick: nobody else ever had a descriptor that can write.
        """
        label = b"shmhost:" + name.encode()[:200]
        try:
            return cls.of(capacity, builtins.make_sealed(label, capacity, header, data, *part))
        except OSError as error:
            raise not_made(capacity, error) from None

    @classmethod
    def of(cls, capacity: int, reader: int) -> Memfd:
        """Return a published object, which owns its only descriptor from then on."""
        memory_object = cls.__new__(cls)
        memory_object.capacity = capacity
        memory_object.is_spare = False
        memory_object._reader = reader
        memory_object._writer = -1
        return memory_object

    @classmethod
    def taken(cls, capacity: int, reader: int, writer: int, is_spare: bool) -> Memfd:
        """Return an object of another host, which owns these descriptors from then on; -1: it has none."""
        memory_object = cls.of(capacity, reader)
        memory_object._writer, memory_object.is_spare = writer, is_spare
        return memory_object

    def close(self) -> None:
        """Close what is open. The last close of a large object takes milliseconds: it frees the pages."""
        for descriptor in (self._reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._reader = -1

    def close_later(self, closer: builtins.Closer) -> bool:
        """Have a thread close what is open; False: it cannot."""
        if not closer.close_later(*self._open()):
            return False
        self._writer = self._reader = -1
        return True

    def _open(self) -> list[int]:
        return [descriptor for descriptor in (self._writer, self._reader) if descriptor >= 0]


class ShmNames(Protocol):
    """The names of a host in SHM_FOLDER; `machine.shm_names` has them."""

    def path_of(self, name: str) -> Path:
        """Return the file of a region's name. InvalidArgument: it is too long."""

    def new_path(self) -> Path:
        """Return a name that nobody can guess."""

    def make(self, path: Path) -> int:
        """Return a read-write descriptor of a new file. OSError: none is left."""

    def give(self, path: Path, descriptor: int, final: Path) -> None:
        """Give an object its final name. RegionExists: it is somebody else's. OSError."""

    def adopt(self, path: Path, descriptor: int) -> None:
        """Take note of an object that has a name already, if it has that."""

    def remove(self, path: Path, descriptor: int) -> None:
        """Remove a name, if it is this object's. OSError."""


class PosixShm:
    """A named object in /dev/shm, for programs that know only shm_open(3).

    tmpfs files take no seals: a process with the creator's descriptor can always write and shrink it.
    Its space is reserved here, so that a full tmpfs is an error now and not SIGBUS later.
    """

    _stays = False

    def __init__(self, name: str, capacity: int, names: ShmNames) -> None:
        self.capacity = capacity
        self._reader = self._writer = -1
        self._names = names
        self._final, self._path = names.path_of(name), names.new_path()
        try:
            self._writer = names.make(self._path)
            os.posix_fallocate(self._writer, 0, capacity)
            self._reader = _reopen(self._writer)
        except OSError as error:
            self.close()
            raise refusal_of(error, f"make a file of {capacity} bytes in {SHM_FOLDER}") from None

    @classmethod
    def of(
        cls, name: str, capacity: int, names: ShmNames, reader: int, writer: int = -1, path: str = ""
    ) -> PosixShm:
        """Return an object of an earlier host, which owns its descriptors; published unless it has a path."""
        memory_object = cls.__new__(cls)
        memory_object.capacity = capacity
        memory_object._reader, memory_object._writer = reader, writer
        memory_object._names = names
        memory_object._final = names.path_of(name)
        memory_object._path = Path(path) if path else memory_object._final
        names.adopt(memory_object._final, reader)
        return memory_object

    def path(self) -> str:
        """Return where it is: under its own name once it is published."""
        return str(self._path)

    def flag(self, seal: Seal) -> int:
        """Return the header flag that says that nothing protects this object."""
        return FLAG_UNSEALED

    def writer(self) -> int:
        """Return the read-write descriptor, which stays the object's."""
        return self._writer

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""
        return self._reader

    def publish(self, header: bytes, seal: Seal) -> None:
        """Write the header and give the object its name, in place of an older generation's.

        Not for the event loop: the folder's lock and the object's can be held by others. RegionExists: a file
        has the name that is not this host's.
        """
        try:
            apart.write_header(self._writer, header)
            _check_header(self._reader, header)
            self._names.give(self._path, self._writer, self._final)
        except RegionExists:
            raise
        except OSError as error:
            raise refusal_of(error, f"publish in {SHM_FOLDER}") from None
        self._path = self._final
        os.close(self._writer)
        self._writer = -1

    def stay(self) -> None:
        """Keep its name when it is closed: the next host has it."""
        self._stays = True

    def close(self) -> None:
        """Remove the names that are still this object's, and close what is open."""
        descriptors = [descriptor for descriptor in (self._writer, self._reader) if descriptor >= 0]
        self._writer = self._reader = -1
        try:
            for path in (self._path, self._final) if descriptors and not self._stays else ():
                self._names.remove(path, descriptors[0])
        finally:
            for descriptor in descriptors:
                os.close(descriptor)


class Freeable(Protocol):
    """Memory that is freed by closing it, which takes its time."""

    capacity: int

    def close(self) -> None:
        """Close what is open."""


class ArenaObject(Protocol):
    """The object of an arena, which its owner writes as long as it lives; `machine.arena_memory` has it."""

    capacity: int
    is_published: bool

    def flag(self, seal: Seal) -> int:
        """Return the header flags that say what protects it."""

    def writer(self) -> int:
        """Return the read-write descriptor, which stays the object's."""

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""

    def publish(self) -> None:
        """Add the seals, once. Not for the event loop: the owner can make it wait. OSError, ShmError."""

    def grow(self, capacity: int) -> None:
        """Give it more bytes. Not for the event loop, as `publish`. OSError."""

    def figures(self) -> tuple[int, int, int]:
        """Return what its owner says: names, bytes of their values, and values that were ever published."""

    def is_larger(self) -> bool:
        """Whether its owner has made it larger than `capacity`, which it can without the host."""

    def close(self) -> None:
        """Close what is open."""


MemoryObject = Memfd | PosixShm | ArenaObject


def new_memfd(name: str) -> int:
    """Return a read-write descriptor of a new object, which takes seals and cannot be executed."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)  # Linux before 6.3


def _check_header(descriptor: int, header: bytes) -> None:
    # O_APPEND, which the creator can set on the description that the host writes through, moves a pwrite to
    # the end: what counts is what is there now.
    if os.pread(descriptor, len(header), 0) != header:
        raise _overwritten()


def _overwritten() -> InvalidArgument:
    return InvalidArgument("the creator wrote over the header page while it was published: create it again")


def _reopen(descriptor: int) -> int:
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def refusal_of(error: OSError, what: str) -> ShmError:
    """Return the refusal for a client whose request met this error of the system."""
    kind = OutOfMemory if error.errno in _SCARCE else Unsupported
    cure = _CURES.get(error.errno or 0, "see the log of the host")
    return kind(f"the host cannot {what}: {error.strerror or error}; {cure}")


def not_made(capacity: int, error: OSError) -> ShmError:
    """Return the refusal for a client whose object could not be made."""
    return refusal_of(error, f"make an object of {capacity} bytes")


def _not_sealed(error: OSError) -> ShmError:
    if error.errno == errno.EBUSY:
        return RegionBusy(
            "the region still has a writable mapping, in its creator or in a forked "
            "child, or I/O still holds its pages (a pipe filled by vmsplice, a direct read or write): "
            "close it, end the child or the I/O, and publish again; seal='writer' allows both"
        )
    if error.errno == errno.EPERM:
        return InvalidArgument(
            "the creator has sealed the object itself, or set O_APPEND on its descriptor: the host writes "
            "the header and seals; create it again"
        )
    return refusal_of(error, "seal the object")
