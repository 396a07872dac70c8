"""A region under construction, as its creator sees it. Does no I/O: the operations ask the host."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any, NoReturn, SupportsIndex

from shmclient import _codecs as codecs
from shmclient._connection.outbox import Outbox
from shmclient._pointers.check import NO_LENGTHS, Lengths, check_root, is_checking
from shmclient._pointers.plan import Pointed
from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._process.copying import not_copied
from shmclient._regions.arrays import Arrays
from shmclient._regions.creation import Creation
from shmclient._regions.placing import Placing
from shmclient._regions.region import RegionHandle
from shmprotocol.abi.header import HEADER_SIZE, KIND_DATA, KIND_OBJECTS
from shmprotocol.errors import InvalidArgument, RegionBusy, RegionClosed, Unsupported
from shmprotocol.kernel import address_space
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import Owned
from shmprotocol.wire.names import Backend, Seal


class RegionBuilder(Placing):
    """A region under construction, mapped read-write at its final address.

    NumPy arrays are made in place with `array`, cffi objects with `alloc`, `new` and `bytes`, and bytes are
    written through `data`. Leaving the `with` block of `create` publishes; an exception in it undoes
    everything, and the name is free at once. `size` is the bytes of the payload, `capacity` those of the
    memory object, before it grows.

    With `seal="full"` the memory becomes read-only in place when the block ends, before the host is
    asked: views of `data`, arrays over them and pointers made here stay readable while
    a view or `region` is held, and **a write through one ends the process by SIGSEGV**, regardless of its
    flags and its thread. So stop all writers before the block ends. Pins promise native
    code that it may write: RegionBusy while there is one. After an error at the end of the block views are
    read-only, or unchanged; after an exception in the block they are private, writable memory.
    """

    def __init__(self) -> None:
        raise TypeError("a RegionBuilder is made by the client: `with client.create(name, size) as builder`")

    def _start(self, outbox: Outbox, request: m.Create, created: m.Created, owned: Owned, size: int) -> None:
        self.name: str = request.name
        self.address: int = created.address
        self._size = size
        self._can_grow = request.max_size > 0
        self.capacity: int = created.capacity  # bytes of the memory object
        self.region: RegionHandle | None = None
        self._is_to_be_sealed = request.seal == Seal.FULL
        self._backend = request.backend
        self._frozen: Any = None  # the buffer, from the freeze until the region is attached
        self._creation = Creation(outbox, created.region, owned)
        if self._can_grow and created.span < created.capacity:
            self._creation.abort()
            raise Unsupported(
                "this host makes no regions that grow: use the same shmhost version on both sides"
            )
        created = created if self._can_grow else created._replace(span=0)
        self._next = created.address + HEADER_SIZE
        self._end = self._next + size
        self._room = request.size - size
        self._root: tuple[int, int, Any] = (0, 0, None)
        self._lengths = NO_LENGTHS
        self._arrays = Arrays(self.name, self._room)
        label, is_sealed = f"region {self.name!r} under construction", self._backend != Backend.SHM
        self._buffer = self._creation.map(created, label, is_sealed=is_sealed)

    @property
    def size(self) -> int:  # type: ignore[override]
        """The bytes of the payload; with a `max_size`, once it is published, those that it has grown to."""
        return self._size if self.region is None or not self._can_grow else self.region.size

    @property
    def data(self) -> memoryview:
        """The payload, writable until it is published. RegionClosed after a full seal."""
        return memoryview(self._mapped())[HEADER_SIZE : HEADER_SIZE + self.size]

    @property
    def data_address(self) -> int:
        """The address of the payload, where `data` starts."""
        return self.address + HEADER_SIZE

    def fileno(self) -> int:
        """Return the read-write descriptor, until the region is published. The builder still owns it.

        It shares its offset with the host: use pwrite(2) or mmap(2), never write(2) or lseek(2). A writable
        mapping of it at the end of the block is RegionBusy.
        """
        return self._creation.fileno()

    def array(self, shape: SupportsIndex | Sequence[int], dtype: Any, name: str | None = None) -> Any:
        """Make a NumPy array of zeros in the region, at a multiple of 64, to be filled in place.

        `get` then returns it, read-only and without a copy, as if it had been `put`. With a `name`
        there can be several: `get` returns a dict of them. If there is a root as well, the arrays are part
        of its structure, and `get` returns the bytes. Allow 64 bytes for each in the builder's size.

        InvalidArgument: it does not fit, its name is taken, a second one without a name, or an invalid shape.
        TypeError: a dtype that cannot be stored. ImportError: there is no NumPy.
        """
        import numpy as np

        self._check_unpublished()
        self._arrays.check_name(name)
        lengths = (int(shape),) if isinstance(shape, SupportsIndex) else tuple(shape)
        try:
            description = codecs.describe_array(dtype, lengths)
        except ValueError as error:
            raise InvalidArgument(f"cannot make an array of shape {lengths!r:.80}: {error}") from None
        address = self.alloc(description["size"], codecs.ALIGNMENT)
        description["offset"] = address - self.data_address
        self._arrays.add(name, description)
        return np.ndarray(lengths, np.dtype(dtype), self.data, description["offset"])

    def set_root(self, pointer: Any, *, lengths: Lengths = NO_LENGTHS) -> None:
        """Set the object that readers start from: a cffi pointer into this region.

        Publishing checks all pointers that its type leads to, unless `unchecked`: PointerEscapes then, and
        nothing is published. `lengths` are as for `check_pointers`, and so is the time it takes.
        """
        self._check_unpublished()
        address, size, kind = address_space.describe_pointer(pointer)
        start = self.address + HEADER_SIZE
        if not start <= address <= address + size <= self._end:
            raise InvalidArgument(
                f"the root {address:#x}, {size} bytes, is not inside the payload {start:#x}-{self._end:#x}"
            )
        self._root = (address, size, kind)
        self._lengths = lengths

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "publish it, pass its name, and open it in the other process")

    def __repr__(self) -> str:
        return f"<RegionBuilder {self.name!r} at {self.address:#x}, {self.size} bytes>"

    def _describe(self, offset: int) -> tuple[Any, Any]:
        """Return what readers are told: the index of a dict, to be at this offset, and the metadata."""
        root, _, kind = self._root
        if root:
            return b"", codecs.pack_metadata({"format": "objects", "root": kind.cname})
        plain = {"format": "bytes", "offset": 0, "size": self.size}
        if self._can_grow:  # its bytes are not known for good
            return self._arrays.describe(offset) or (b"", b"")
        return self._arrays.describe(offset) or (b"", codecs.pack_metadata(plain))

    def _mapped(self) -> Any:
        if self._buffer is None:
            raise RegionClosed(f"{self.name!r} is published or given up: it cannot be changed any more")
        if self._can_grow and self.region is not None:
            self._end = self.data_address + self.size
        return self._buffer

    def _check_unpublished(self) -> None:
        """RegionClosed once readers have the root and the arrays: also for a writer, who keeps the memory."""
        self._mapped()
        if self.region is not None:
            raise RegionClosed(f"{self.name!r} is published: its root and its arrays are what they are")

    # The end of the block: see the functions below, which `_drivers/operations` calls in this order.

    def _finish(self, request: int) -> m.Publish:
        root, root_size, _ = self._root
        # Of a region that grows, all is data, so that the metadata lies behind the last object in it.
        end = self._next - self.data_address if self._can_grow else self.size
        offset = -(-end // codecs.INDEX_ALIGNMENT) * codecs.INDEX_ALIGNMENT
        index, metadata = self._describe(offset)
        content = index + metadata
        if offset - self.size + len(content) <= self._room:
            start = HEADER_SIZE + offset
            memoryview(self._mapped())[start : start + len(content)] = content
            if self._can_grow:  # else it lies behind all that can be placed
                self._next = max(self._next, self.address + start + len(content))
        else:
            metadata = b""
        if self._is_to_be_sealed:
            self._freeze()
        return m.Publish(
            request,
            self._creation.region,
            KIND_OBJECTS if root else KIND_DATA,
            self.capacity - HEADER_SIZE if self._can_grow else self.size,
            root,
            root_size,
            self.data_address + offset + len(index) if metadata else 0,
            len(metadata),
        )

    def _freeze(self) -> None:
        if self._creation.freeze(is_sealed=self._backend != Backend.SHM):
            self._frozen = self._buffer  # keeps the mapping for the region
            self._buffer = None
        else:
            self._unmap()

    def _unmap(self) -> None:
        # The way without /proc: nothing writable may be mapped when the host seals.
        buffer = weakref.ref(self._buffer)
        self._buffer = None
        if buffer() is not None:
            gc.collect()  # views in reference cycles
        if buffer() is not None:
            raise RegionBusy(
                f"{self.name!r} still has a writable view (of builder.data, or an array over it), which "
                f"cannot be made read-only, because /proc/self/fd/{self._creation.fileno()} cannot be opened "
                "(is /proc mounted? is RLIMIT_NOFILE reached?): fix that, or delete the view before the "
                "block ends, or create the region with seal='writer'"
            )
        ADDRESS_SPACE.settle()  # otherwise the host would detect the mapping, and refuse


# The interface of a builder for operations and pins. Functions, so that `help(RegionBuilder)` does not
# show them to users.


def make_builder(
    outbox: Outbox, request: m.Create, created: m.Created, owned: Owned, size: int
) -> RegionBuilder:
    """Return a builder of `size` payload bytes, mapped; it owns the descriptor from then on."""
    builder = RegionBuilder.__new__(RegionBuilder)
    builder._start(outbox, request, created, owned, size)
    return builder


def pointed_in_builder(builder: RegionBuilder) -> Pointed:
    """Return what `check_pointers` looks at: the payload, and the root so far."""
    address, size, kind = builder._root
    end = HEADER_SIZE + builder.size
    view = memoryview(builder._mapped())[:end]
    is_array = bool(kind and kind.kind == "array")
    return Pointed(builder.name, view, builder.address, end, address, size, is_array)


def check_built(builder: RegionBuilder) -> None:
    """Check what the root leads to by its cffi type, unless `unchecked`: some 0.1 us an object."""
    address, _, kind = builder._root
    if address and is_checking():
        check_root(pointed_in_builder(builder), kind.item, builder._lengths)


def is_to_be_sealed(builder: RegionBuilder) -> bool:
    """Whether nobody may write to it once it is published."""
    return builder._is_to_be_sealed


def finish(builder: RegionBuilder, request: int) -> m.Publish:
    """Write the metadata, freeze the memory for a full seal, and return what to ask of the host."""
    return builder._finish(request)


def creation_of(builder: RegionBuilder) -> Creation:
    """Return what a builder owes the host."""
    return builder._creation


def published(builder: RegionBuilder, region: RegionHandle) -> None:
    """Note that the host has published it; `region` is attached, so that the mapping stays."""
    builder.region = region
    builder._frozen = None


def abort(builder: RegionBuilder) -> None:
    """Give up: the name is free at once, the address when the last view of it is gone."""
    builder._buffer = builder._frozen = None
    builder._creation.abort()
