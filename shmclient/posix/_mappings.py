"""Mappings at chosen addresses. Knows which ranges of this process are whose.

The registry is one for the process, as its address space is. It is an interval map: a mapping that replaces
a part of another lies *inside* of that one, and leaves the part as reserved address space when it goes.
"""

from __future__ import annotations

import errno
import mmap as _mmap
import os
import stat
import weakref
from typing import Any, NamedTuple

from shmclient._gate import Gate
from shmclient._intervals import Intervals
from shmclient.posix import _emulation as emulation
from shmclient.posix._errors import check_flags, check_result, check_size, failure
from shmprotocol import memory
from shmprotocol.native import lib

_PLACED = lib.MAP_FIXED | lib.MAP_FIXED_NOREPLACE


class Mapping:
    """A mapping of this process: `length` bytes at `address`. A context manager that unmaps it.

    It is also unmapped when it and all its views are collected. `prot` is what `mmap`, or the last `mprotect`
    of the whole mapping, allowed.
    """

    def __init__(self, request: _Request, address: int, parent: Mapping | None) -> None:
        self.address = address
        self.length = request.length
        self.prot = request.prot
        self.is_shared = request.is_shared
        self.object = request.object  # its device and inode, when it is shared
        self._parent = parent
        self._inside: Intervals[weakref.ref[Mapping]] = Intervals()
        self._buffer: weakref.ref[Any] | None = None
        self._is_mapped = True

    @property
    def is_writable(self) -> bool:
        """Whether its memory may be written, as far as `prot` says."""
        return bool(self.prot & _mmap.PROT_WRITE)

    @property
    def buffer(self) -> memoryview:
        """Its bytes, read-only where it is; it cannot be unmapped while this or any view of it lives.

        PermissionError: it may not be read. Do not cut the object short meanwhile: its bytes beyond the end
        raise SIGBUS.
        """
        if not self.prot & (_mmap.PROT_READ | _mmap.PROT_WRITE):
            raise failure(errno.EACCES, f"{self!r} may not be read")
        view = memoryview(self.hold())
        return view if self.is_writable else view.toreadonly()

    def hold(self) -> Any:
        """Return an object that keeps it mapped as long as it lives; EINVAL after `munmap`."""
        with MAPPINGS.gate:
            if not self._is_mapped:
                raise failure(errno.EINVAL, f"{self!r} is unmapped")
            buffer = self._buffer() if self._buffer is not None else None
            if buffer is None:
                buffer = memory.bytes_at(self.address, self.length, self._viewed)
                self._buffer = weakref.ref(buffer)
            return buffer

    def _viewed(self) -> None:
        """Be referred to by the buffer, so that the last view is gone before this is collected."""

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_mapped:
            munmap(self)

    def __del__(self) -> None:
        if getattr(self, "_is_mapped", False):
            MAPPINGS.gate.submit(_Range(self.address, self.length, self._parent))

    def __repr__(self) -> str:
        kind = "shared" if self.is_shared else "private"
        allowed = "".join(letter if self.prot & 1 << bit else "-" for bit, letter in enumerate("rwx"))
        state = "" if self._is_mapped else ", unmapped"
        return f"<Mapping {self.length} bytes at {self.address:#x}, {kind}, {allowed}{state}>"


class _Range(NamedTuple):
    """What has to be given back when a mapping is gone."""

    address: int
    length: int
    parent: Mapping | None


class _Request(NamedTuple):
    """Checked arguments of `mmap`."""

    address: int
    length: int
    prot: int
    flags: int
    fd: int
    offset: int
    object: emulation.Identity | None

    @property
    def is_shared(self) -> bool:
        return self.flags & lib.MAP_TYPE in (_mmap.MAP_SHARED, lib.MAP_SHARED_VALIDATE)

    def __str__(self) -> str:
        return (
            f"mmap of {self.length} bytes at {self.address:#x}, protection {self.prot:#x}, flags "
            f"{self.flags:#x}, descriptor {self.fd}, offset {self.offset}"
        )


class Mappings:
    """The mappings of this process, as far as `mmap` below made them."""

    def __init__(self) -> None:
        self._found: Intervals[weakref.ref[Mapping]] = Intervals()
        self.gate: Gate[_Range] = Gate(self._abandon)

    def map(self, request: _Request, destroys: Mapping | None) -> Mapping:
        """Carry out a checked request."""
        with self.gate:
            among = self._found if destroys is None else _room(request, destroys)
            address = lib.shm_mmap(*request[:6])
            if address < 0:
                _restore(request, destroys)
                raise _explain(request, -address)
            if request.flags & _PLACED and address != request.address:  # before Linux 4.17 it is but a hint
                lib.shm_munmap(address, request.length)
                raise _explain(request, errno.EEXIST)
            mapping = Mapping(request, address, destroys)
            among.add(address, request.length, weakref.ref(mapping))
            return mapping

    def unmap(self, mapping: Mapping) -> None:
        """Unmap a mapping that is mapped and has no views."""
        with self.gate:
            _check_unused(mapping)
            self._give_back(_Range(mapping.address, mapping.length, mapping._parent))
            mapping._is_mapped = False

    def find(self, address: int) -> Mapping | None:
        """Return the innermost mapping that an address lies in, or None."""
        low, high = self._found.bounds
        if not low <= address < high:
            return None
        with self.gate:
            found = self._found.at(address)
            mapping = found() if found is not None else None
            while mapping is not None:
                inner = mapping._inside.at(address)
                within = inner() if inner is not None else None
                if within is None:
                    return mapping
                mapping = within
            return None

    def writable(self, which: emulation.Identity) -> list[Mapping]:
        """Return the writable shared mappings of an object."""
        with self.gate:
            return [found for found in _walk(self._found) if found.object == which and found.is_writable]

    def _abandon(self, gone: _Range) -> None:
        try:
            self._give_back(gone)
        except OSError:
            return  # at vm.max_map_count: it stays mapped, and its range taken

    def _give_back(self, gone: _Range) -> None:
        what = f"munmap of {gone.length} bytes at {gone.address:#x}"
        if gone.parent is None:
            check_result(lib.shm_munmap(gone.address, gone.length), what)
            self._found.remove(gone.address)
        else:
            check_result(lib.shm_unmap(gone.address, gone.length, memory.MAP_RESERVED), what)
            gone.parent._inside.remove(gone.address)


MAPPINGS = Mappings()
os.register_at_fork(
    before=MAPPINGS.gate.__enter__,
    after_in_parent=MAPPINGS.gate.__exit__,
    after_in_child=MAPPINGS.gate.__exit__,
)


def mmap(
    address: int | None,
    length: int,
    prot: int,
    flags: int,
    fd: int = -1,
    offset: int = 0,
    *,
    destroys: Mapping | None = None,
    hint: bool = False,
) -> Mapping:
    """Map an object, or anonymous memory, and return the mapping; sizes and offsets are bytes. See mmap(2).

    With an address it is mapped there and nowhere else: FileExistsError names what is there already
    (MAP_FIXED_NOREPLACE), unless `hint` lets the system choose another; without (0 or None) the system
    chooses. To replace memory, name the mapping that is destroyed within the range (`destroys`, which makes
    it MAP_FIXED): it must be one of this module, hold the whole range, and have no views. MAP_FIXED without
    that is EINVAL. The descriptor stays the caller's, and may be closed. ENXIO: the object ends before the
    mapping.
    """
    request = _check_request(address, length, prot, flags, fd, offset, destroys, hint)
    return MAPPINGS.map(request, destroys)


def munmap(mapping: Mapping) -> None:
    """Unmap what `mmap` returned, as a whole, and once.

    EINVAL: it is unmapped already, or no mapping of `mmap`, as a slice of one. BufferError: views of it live,
    or mappings inside of it.
    """
    if not isinstance(mapping, Mapping):
        raise failure(errno.EINVAL, f"munmap of a {type(mapping).__name__}, which is not what mmap returned")
    MAPPINGS.unmap(mapping)


def _check_request(
    address: int | None,
    length: int,
    prot: int,
    flags: int,
    fd: int,
    offset: int,
    destroys: Mapping | None,
    hint: bool,
) -> _Request:
    place = check_size(address or 0, "address")
    check_size(length, "length", 1)
    check_size(offset, "offset")
    check_flags(prot, "protection")
    check_flags(flags, "flags")
    if destroys is not None:
        flags |= lib.MAP_FIXED
    elif flags & lib.MAP_FIXED:
        raise failure(
            errno.EINVAL,
            f"MAP_FIXED at {place:#x} replaces whatever is there: name it in destroys=, or leave it out",
        )
    elif place and not hint:
        flags |= lib.MAP_FIXED_NOREPLACE
    which = None
    if not flags & _mmap.MAP_ANONYMOUS:
        which = emulation.identity(fd)
        _check_end(fd, offset + length, prot)
    request = _Request(place, length, prot, flags, fd, offset, which)
    if not request.is_shared:
        return request._replace(object=None)
    if prot & _mmap.PROT_WRITE and emulation.forbids_writing(which):
        raise failure(errno.EPERM, str(request))
    return request


def _check_end(fd: int, end: int, prot: int) -> None:
    """Refuse a mapping that goes beyond the last page of an object: to use it would raise SIGBUS."""
    status = os.fstat(fd)
    pages = -(-status.st_size // memory.PAGE) * memory.PAGE
    if prot and stat.S_ISREG(status.st_mode) and end > pages:
        raise failure(
            errno.ENXIO, f"a mapping up to byte {end} of descriptor {fd}, which has {status.st_size} bytes"
        )


def _room(request: _Request, destroys: Mapping) -> Intervals[weakref.ref[Mapping]]:
    """Return what is inside of a mapping that may be replaced in the range of a request."""
    end = destroys.address + destroys.length
    if not destroys.address <= request.address <= request.address + request.length <= end:
        raise failure(errno.EINVAL, f"{request}: {destroys!r} does not hold this range")
    if not destroys._is_mapped:
        raise failure(errno.EINVAL, f"{destroys!r} is unmapped")
    if destroys._buffer is not None and destroys._buffer() is not None:
        raise BufferError(f"views of {destroys!r} live: delete them before it is replaced")
    inside = [found.value() for found in destroys._inside.overlapping(request.address, request.length)]
    if inside:
        raise failure(errno.EEXIST, f"{request}: {inside[0]!r} is there")
    return destroys._inside


def _restore(request: _Request, destroys: Mapping | None) -> None:
    # Before Linux 6.12 a MAP_FIXED that fails can have unmapped what it was to replace.
    if destroys is not None:
        lib.shm_unmap(request.address, request.length, memory.MAP_RESERVED)


def _explain(request: _Request, code: int) -> OSError:
    there = f" ({memory.occupants(request.address, request.length)})" if code == errno.EEXIST else ""
    return failure(code, f"{request}{there}")


def _check_unused(mapping: Mapping) -> None:
    if not mapping._is_mapped:
        raise failure(errno.EINVAL, f"{mapping!r} is unmapped already")
    if mapping._buffer is not None and mapping._buffer() is not None:
        raise BufferError(f"views of {mapping!r} live: delete them before it is unmapped")
    if len(mapping._inside):
        raise BufferError(f"{len(mapping._inside)} mappings are inside of {mapping!r}: unmap them first")


def _walk(intervals: Intervals[weakref.ref[Mapping]]) -> list[Mapping]:
    found: list[Mapping] = []
    for interval in intervals:
        mapping = interval.value()
        if mapping is not None:
            found += [mapping, *_walk(mapping._inside)]
    return found
