"""A structure with pointers that the owner of an arena builds in place."""

from __future__ import annotations

from typing import Any

from shmclient import _codecs as codecs
from shmclient._pointers.check import NO_LENGTHS, Lengths, check_root, is_checking
from shmclient._pointers.plan import Pointed
from shmclient._regions.placing import Placing
from shmprotocol.abi.header import VALUE_OBJECTS
from shmprotocol.errors import InvalidArgument, RegionClosed
from shmprotocol.kernel import address_space
from shmprotocol.native.builtins import Loan

ROOM_FOR_TYPE = 512  # bytes of the description, which says what the root is: the name of a C type


class ArenaBuilder(Placing):
    """A block of an arena in which `new`, `alloc` and `bytes` place objects, reached from a root.

    All pointers must lead into the block: it is what a reader holds.
    """

    def __init__(self, owner: Any, name: str, size: int) -> None:
        self.name: str = f"{owner.name}/{name}"
        self.size: int = size
        self._short = name
        self._loan: Loan | None = owner._loan(size + ROOM_FOR_TYPE, b"", VALUE_OBJECTS, name)
        self.address: int = self._loan.address
        self._next, self._end = self.address, self.address + size
        self._root: tuple[int, int, Any] = (0, 0, None)
        self._lengths = NO_LENGTHS

    def alloc(self, size: int, align: int = 16) -> int:
        """Take `size` zeroed bytes at a multiple of `align`, a power of two; return their address."""
        address = super().alloc(size, align)
        start = address - self.address
        memoryview(self._mapped())[start : start + size] = bytes(size)  # the block was another value's
        return address

    def set_root(self, pointer: Any, *, lengths: Lengths = NO_LENGTHS) -> None:
        """Set the object that readers start from: a cffi pointer into this block.

        Publishing checks all pointers that its type leads to, unless `unchecked`: PointerEscapes.
        """
        self._mapped()
        address, size, kind = address_space.describe_pointer(pointer)
        if not self.address <= address <= address + size <= self._next:
            raise InvalidArgument(
                f"the root {address:#x}, {size} bytes, is not in the block of {self.name!r}, "
                f"{self.address:#x}-{self._next:#x}"
            )
        self._root = (address, size, kind)
        self._lengths = lengths

    def publish(self, name: str = "") -> int:
        """Check the pointers, and publish; return the generation. InvalidArgument: there is no root."""
        memory = self._mapped()
        address, size, kind = self._root
        if not address:
            raise InvalidArgument(f"{self.name!r} has no root: call set_root() with a pointer into it")
        used = self._next - self.address
        if is_checking():
            view, is_array = memoryview(memory)[:used], kind.kind == "array"
            pointed = Pointed(self.name, view, self.address, used, address, size, is_array)
            check_root(pointed, kind.item, self._lengths)
        description = codecs.pack_metadata({"format": "objects", "root": kind.cname})
        if len(description) > ROOM_FOR_TYPE - 8:  # they are aligned
            raise InvalidArgument(
                f"the name of the root's type is too long for an arena: {kind.cname:.80}..."
            )
        generation: int = memory.publish(name or self._short, address, size, used, description)
        self._loan = None
        return generation

    def discard(self) -> None:
        """Give the block back. May be called again."""
        if self._loan is not None:
            self._loan.discard()
            self._loan = None

    def __repr__(self) -> str:
        return f"<ArenaBuilder {self.name!r} at {self.address:#x}, {self.size} bytes>"

    def _mapped(self) -> Any:
        if self._loan is None:
            raise RegionClosed(f"{self.name!r} is published or given up: it cannot be changed any more")
        return self._loan
