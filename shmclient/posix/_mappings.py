"""Mappings at chosen addresses, and the registry of their ranges.

The registry is one for the process, as its address space is. It is an interval map: a mapping that replaces
a part of another lies *inside* of that one, which is only reserved address space from then on, and takes the
part back when the inner one is unmapped.
"""

from __future__ import annotations

import errno
import mmap as _mmap
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn

from shmclient._process.copying import not_copied
from shmclient._process.fork import GATES, at_fork
from shmclient._process.gate import Gate
from shmclient._process.intervals import Intervals
from shmclient.posix import _emulation as emulation
from shmclient.posix._errors import check_result, failure
from shmclient.posix._requests import Request, check_request
from shmprotocol.kernel import address_space
from shmprotocol.native.binding import lib

_PLACED = lib.MAP_FIXED | lib.MAP_FIXED_NOREPLACE


class Range:
    """A mapping of this process. It stays while it has views, or mappings inside of it.

    `prot`, `is_shared`, `may_write` and `object` change with the gate held: when it becomes a reservation, or
    by mprotect(2).
    """

    def __init__(self, request: Request, address: int, parent: Range | None) -> None:
        self.address = address
        self.length = request.length
        self.prot = request.prot
        self.is_shared = request.is_shared
        self.object = request.object  # its device and inode, when it is shared
        self.may_write = request.may_write  # or mprotect could let it
        self.parent = parent
        self.inside: Intervals[Range] = Intervals()
        self.memory: weakref.ref[Any] | None = None
        self.is_mapped = True
        self.is_abandoned = False  # nobody has it any more, but mappings inside of it live

    @property
    def is_writable(self) -> bool:
        """Whether its memory may be written, as far as `prot` says."""
        return bool(self.prot & _mmap.PROT_WRITE)

    def hold(self) -> memoryview:
        """Return a view that keeps it mapped, with any protection; EINVAL if it is not mapped."""
        with MAPPINGS.gate.draining, MAPPINGS.gate.lock:
            memory = self.memory() if self.memory is not None else None
            if memory is None or not self.is_mapped:
                raise failure(errno.EINVAL, f"{self!r} is unmapped")
            return memoryview(memory)

    def check_unused(self, purpose: str) -> None:
        """Raise unless it is mapped and nothing uses it: EINVAL, BufferError. With the gate held."""
        memory = self.memory() if self.memory is not None else None
        if memory is None or not self.is_mapped:
            raise failure(errno.EINVAL, f"{self!r} is unmapped already")
        if address_space.exports(memory):
            raise BufferError(f"views of {self!r} live: delete them before it is {purpose}")

    def become_reserved(self, start: int, end: int) -> None:
        """Unmap the memory, except parts that are replaced already. With the gate held.

        If the system cannot, at vm.max_map_count, the memory stays, but is unreachable.
        """
        if self.prot or self.is_shared:
            lib.shm_unmap(self.address, start - self.address, address_space.MAP_RESERVED)
            lib.shm_unmap(end, self.address + self.length - end, address_space.MAP_RESERVED)
        self.prot, self.is_shared, self.object, self.may_write = 0, False, None, True

    def reserve(self) -> int:
        """Put reserved address space here; return 0 or -errno."""
        result: int = lib.shm_unmap(self.address, self.length, address_space.MAP_RESERVED)
        return result

    def __repr__(self) -> str:
        kind = "shared" if self.is_shared else "private"
        allowed = "".join(letter if self.prot & 1 << bit else "-" for bit, letter in enumerate("rwx"))
        state = "" if self.is_mapped else ", unmapped"
        return f"<Mapping {self.length} bytes at {self.address:#x}, {kind}, {allowed}{state}>"


class Mapping:
    """A mapping of this process: `length` bytes at `address`. A context manager that unmaps it.

    It is also unmapped when it and all its views are collected.
    """

    def __init__(self) -> None:
        raise TypeError("a Mapping has no constructor: use posix.mmap()")

    def _start(self, range_: Range) -> None:
        self._range = range_
        gate = MAPPINGS.gate  # the destructor has no globals any more when the interpreter ends
        self._memory = address_space.bytes_at(
            range_.address, range_.length, lambda: gate.submit(range_), is_writable=True
        )
        range_.memory = weakref.ref(self._memory)

    @property
    def address(self) -> int:
        """The start address."""
        return self._range.address

    @property
    def length(self) -> int:
        """The requested length in bytes; the system maps whole pages."""
        return self._range.length

    @property
    def prot(self) -> int:
        """The protection set by `mmap`, or by the last `mprotect` of the whole mapping."""
        return self._range.prot

    @property
    def is_shared(self) -> bool:
        """Whether other processes see writes."""
        return self._range.is_shared

    @property
    def is_writable(self) -> bool:
        """Whether `prot` lets it be written."""
        return self._range.is_writable

    @property
    def buffer(self) -> memoryview:
        """Its bytes, read-only where it is; it cannot be unmapped while this or any view of it lives.

        PermissionError: it may not be read. Do not truncate the object meanwhile: access past its end
        raises SIGBUS.
        """
        view = self._range.hold()
        if not self.prot & (_mmap.PROT_READ | _mmap.PROT_WRITE):
            raise failure(errno.EACCES, f"{self!r} may not be read")
        if self._range.is_writable:
            return view
        return memoryview(address_space.bytes_keeping(self.address, self.length, view))

    def __enter__(self) -> Mapping:
        return self

    def __exit__(self, *_: object) -> None:
        if self._range.is_mapped:
            munmap(self)

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the descriptor, and mmap it in the other process")

    def __repr__(self) -> str:
        return repr(self._range)


class Mappings:
    """The mappings of this process, as far as `mmap` below made them."""

    def __init__(self) -> None:
        self._found: Intervals[Range] = Intervals()
        self.gate: Gate[Range] = Gate(self._abandon)

    def map(self, request: Request, destroys: Range | None) -> Mapping:
        """Carry out a checked request."""
        with self.gate.draining, self.gate.lock:
            request = _under_seals(request)
            if destroys is not None:
                _check_room(request, destroys)
            address = lib.shm_mmap(*request[:6])
            if destroys is not None:
                _destroy(request, destroys, is_mapped=address >= 0)
            if address >= 0 and request.flags & _PLACED and address != request.address:
                lib.shm_munmap(address, request.length)  # before Linux 4.17 the address is only a hint
                address = -errno.EEXIST
            if address < 0:
                raise _explain(request, -address)
            mapped = Range(request, address, destroys)
            (self._found if destroys is None else destroys.inside).add(address, request.length, mapped)
            mapping = Mapping.__new__(Mapping)
            mapping._start(mapped)
            return mapping

    def unmap(self, mapping: Mapping) -> None:
        """Unmap a mapping that is mapped, has no views and none inside."""
        with self.gate.draining, self.gate.lock:
            mapping._range.check_unused("unmapped")
            inside = len(mapping._range.inside)
            if inside:
                raise BufferError(f"{inside} mappings are inside of {mapping!r}: unmap them first")
            self._give_back(mapping._range)
            address_space.disown(mapping._memory)

    def find(self, address: int) -> Range | None:
        """Return the innermost mapping that an address lies in, or None."""
        low, high = self._found.bounds
        if not low <= address < high:
            return None
        with self.gate.draining, self.gate.lock:
            mapping, inner = None, self._found.at(address)
            while inner is not None:
                mapping, inner = inner, inner.inside.at(address)
            return mapping

    def writable(self, which: emulation.Identity) -> list[Range]:
        """Return the shared mappings of an object through which it can be written, now or after mprotect.

        With the gate held.
        """
        return [mapping for mapping in _all(self._found) if mapping.object == which and mapping.may_write]

    def _abandon(self, gone: Range) -> None:
        gone.is_abandoned = True
        if not len(gone.inside):
            try:
                self._give_back(gone)
            except OSError:
                return  # at vm.max_map_count: it stays mapped, and its range taken

    def _give_back(self, gone: Range) -> None:
        what = f"munmap of {gone!r}"
        if gone.parent is None:
            check_result(lib.shm_munmap(gone.address, gone.length), what)
            self._found.remove(gone.address)
        else:
            check_result(gone.reserve(), what)
            gone.parent.inside.remove(gone.address)
        gone.is_mapped = False
        if gone.parent is not None and gone.parent.is_abandoned:
            self._abandon(gone.parent)


MAPPINGS = Mappings()
at_fork(GATES, MAPPINGS.gate.lock.acquire, MAPPINGS.gate.leave)


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
    chooses. To replace memory, name the mapping that is destroyed (`destroys`, which makes it MAP_FIXED): it
    must be one of this module, hold the whole range, and have no views. All of it becomes reserved address
    space, in which the new one lies. MAP_FIXED without that is EINVAL. The descriptor stays the caller's, and
    may be closed. ENXIO: the object ends before the mapping.
    """
    if destroys is not None:
        if not isinstance(destroys, Mapping):
            raise TypeError(f"destroys is a Mapping, not a {type(destroys).__name__}")
        request = check_request(address, length, prot, flags, fd, offset, exact=False)
        return MAPPINGS.map(request._replace(flags=request.flags | lib.MAP_FIXED), destroys._range)
    request = check_request(address, length, prot, flags, fd, offset, exact=not hint)
    if flags & lib.MAP_FIXED:
        where = f"MAP_FIXED at {request.address:#x} replaces the mappings there"
        raise failure(errno.EINVAL, f"{where}: name it in destroys=, or leave MAP_FIXED out")
    return MAPPINGS.map(request, None)


def munmap(mapping: Mapping) -> None:
    """Unmap a whole mapping that `mmap` returned, once.

    EINVAL: it is unmapped already, or not a mapping of `mmap`, such as a slice of one. BufferError: it has
    views, or mappings inside of it.
    """
    if not isinstance(mapping, Mapping):
        raise failure(errno.EINVAL, f"munmap of a {type(mapping).__name__}, which is not a result of mmap")
    MAPPINGS.unmap(mapping)


def _under_seals(request: Request) -> Request:
    """Return a request as limited by the seals kept here; EPERM if they forbid it."""
    if not emulation.forbids_writing(request.object):
        return request
    if request.prot & _mmap.PROT_WRITE:
        raise failure(errno.EPERM, str(request))
    return request._replace(may_write=False)


def _check_room(request: Request, destroys: Range) -> None:
    """Check that a request lies inside of a mapping that may be replaced there."""
    destroys.check_unused("replaced")
    end = destroys.address + destroys.length
    if not destroys.address <= request.address <= request.address + request.length <= end:
        raise failure(errno.EINVAL, f"{request}: {destroys!r} does not hold this range")
    inside = destroys.inside.overlapping(request.address, request.length)
    if inside:
        raise failure(errno.EEXIST, f"{request}: {inside[0].value!r} is there")


def _destroy(request: Request, destroys: Range, *, is_mapped: bool) -> None:
    """Make a mapping a reservation, when another was mapped inside of it, or failed to and left a hole."""
    end = request.address + -(-request.length // _mmap.PAGESIZE) * _mmap.PAGESIZE
    # Before Linux 6.12 a MAP_FIXED that fails can have unmapped what it was to replace.
    if is_mapped or lib.shm_reserve(request.address, request.length) == 0:
        destroys.become_reserved(request.address, end)


def _explain(request: Request, code: int) -> OSError:
    there = f" ({address_space.occupants(request.address, request.length)})" if code == errno.EEXIST else ""
    return failure(code, f"{request}{there}")


def _all(intervals: Intervals[Range]) -> Iterator[Range]:
    for interval in intervals:
        yield interval.value
        yield from _all(interval.value.inside)
