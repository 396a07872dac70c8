"""Buffers of Python objects, held in C for as long as native code needs them: many in one call."""

from __future__ import annotations

from typing import Any

from shmclient._regions.builder import RegionBuilder
from shmclient._regions.region import RegionHandle, attached
from shmprotocol.native.binding import ffi, lib
from shmprotocol.native.builtins import Exporter

# Not zeroed: both arrays are written in full before they are read.
_allocate = ffi.new_allocator(should_clear_after_alloc=False)


class Buffers:
    """The buffers of some objects, and a `struct iovec` array of where they are.

    They are held until `release`, and for ever if that is never called: a leak leaves nothing dangling.
    TypeError: an object has no buffer. BufferError: it is not contiguous. Then none is held.
    """

    def __init__(self, objects: tuple[object, ...]) -> None:
        count = len(objects)
        self._kept: object = objects  # what cffi makes of a structure does not keep it
        self.count = count
        self.iov = _allocate("uint64_t[]", 2 * count)
        self._views = _allocate("Py_buffer[]", count)
        taken = lib.shm_buffers_pin(id(objects), count, self._views, self.iov)
        if taken < count:  # one of them has no buffer of its own: a region, a cffi object, or an error
            objects = tuple(map(_as_buffer, objects))
            taken = lib.shm_buffers_pin(id(objects), count, self._views, self.iov)
        if taken < count:
            raise _explain(objects[taken])
        self.is_read_only = taken != count  # one of them is

    def entry(self, index: int) -> tuple[int, int]:
        """Return address and size of a buffer; the address of an empty one is 0."""
        return self.iov[2 * index], self.iov[2 * index + 1]

    def overlap(self, start: int, end: int) -> bool:
        """Whether one of them has a byte in a range of addresses."""
        entries = map(self.entry, range(self.count))
        return any(address < end and start < address + size for address, size in entries)

    def first_read_only(self) -> int | None:
        """Return the index of the first buffer that must not be written; -1 when there is none."""
        index: int = lib.shm_buffers_read_only(self._views, self.count)
        return index

    def release(self) -> None:
        """Zero the array and release the buffers; once."""
        lib.shm_buffers_unpin(self._views, self.count, self.iov)
        self._kept = None


def _as_buffer(obj: object) -> object:
    """Return an object that has the buffer that this one stands for; it keeps this one."""
    if isinstance(obj, RegionHandle):
        return attached(obj).view()
    if isinstance(obj, Exporter):  # the handle of a value in an arena
        return obj._exported()
    if isinstance(obj, RegionBuilder):
        return obj.data
    if isinstance(obj, ffi.CData):
        return _buffer_of_cdata(obj)
    return obj


def _buffer_of_cdata(cdata: Any) -> object:
    kind = ffi.typeof(cdata)
    if kind.kind in ("struct", "union"):
        cdata = ffi.addressof(cdata)
    elif kind.kind not in ("pointer", "array") or cdata == ffi.NULL:
        raise TypeError(
            f"cannot pin the cffi object {cdata!r}: it is NULL, or not a pointer, array or structure"
        )
    return ffi.buffer(cdata)  # which keeps the cdata, and so what that owns


def _explain(obj: object) -> Exception:
    try:
        memoryview(obj)  # type: ignore[arg-type]
    except TypeError:
        return TypeError(
            f"cannot pin a {type(obj).__name__}: it has no buffer. Pin bytes, a bytearray, memoryview, "
            "ndarray, array, mmap, ctypes or cffi object, or a region"
        )
    except (BufferError, ValueError) as error:
        return error
    return BufferError(
        f"cannot pin a {type(obj).__name__} that is not contiguous: its bytes have no single address. "
        "Copy it, e.g. with numpy.ascontiguousarray"
    )
