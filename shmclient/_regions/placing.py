"""Objects that are placed one after the other in memory that is being built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shmprotocol.errors import InvalidArgument
from shmprotocol.kernel import address_space


class Placing:
    """Memory from `_next` to `_end`, in a buffer that `_mapped` returns and that starts at `address`."""

    name: str
    address: int
    size: int  # bytes in all, for errors
    _next: int
    _end: int

    def alloc(self, size: int, align: int = 16) -> int:
        """Take `size` zeroed bytes at a multiple of `align`, a power of two; return their address."""
        self._mapped()
        if size < 0 or align < 1 or align & (align - 1):
            raise InvalidArgument(f"cannot allocate {size} bytes at a multiple of {align}")
        address = (self._next + align - 1) & -align
        if address + size > self._end:
            raise InvalidArgument(
                f"{size} bytes do not fit: {max(self._end - address, 0)} of {self.size} are left in "
                f"{self.name!r}; create it larger"
            )
        self._next = address + size
        return address

    def new(self, ffi: Any, ctype: str, init: Any = None) -> Any:
        """Make an object in the region, as `ffi.new(ctype, init)` would in private memory.

        `ctype` is a pointer (`"struct node *"`) or an array (`"int[8]"`, `"int[]"` with a length or a
        sequence as init). The pointer does not keep the builder alive.
        """
        kind = ffi.typeof(ctype)
        if kind.kind == "pointer":
            pointer = self._place(ffi, kind, kind.item, 1)
            if init is not None:
                pointer[0] = init
            return pointer
        if kind.kind != "array":
            raise TypeError(f"expected a pointer or array type, got {ctype!r}")
        length, values = _array_length(kind, init)
        pointer = self._place(ffi, ffi.typeof(ffi.getctype(kind.item, "*")), kind.item, length)
        for index, value in enumerate(values):
            pointer[index] = value
        return ffi.cast(ffi.getctype(kind.item, f"(*)[{length}]"), pointer)[0]

    def bytes(self, content: Any) -> Any:
        """Copy a bytes-like object into the region, with a zero byte at its end; return a `char *` to it."""
        size = memoryview(content).nbytes
        address = self.alloc(size + 1, 1)
        start = address - self.address
        memoryview(self._mapped())[start : start + size] = memoryview(content).cast("B")
        return address_space.char_pointer(address)

    def _mapped(self) -> Any:
        """Return the buffer. RegionClosed: it cannot be changed any more."""
        raise NotImplementedError

    def _place(self, ffi: Any, pointer_type: Any, item: Any, count: int) -> Any:
        address = self.alloc(ffi.sizeof(item) * count, max(ffi.alignof(item), 1))
        return ffi.cast(pointer_type, address)


def _array_length(array: Any, init: Any) -> tuple[int, Sequence[Any]]:
    """Return how many items an array type gets from `init`, as ffi.new has it, and their values."""
    if isinstance(init, int) and array.length is None:
        return init, ()
    values = () if init is None else list(init)
    length = len(values) if array.length is None else array.length
    if len(values) > length:
        raise InvalidArgument(f"{len(values)} values do not fit in {array.cname!r}")
    return length, values
