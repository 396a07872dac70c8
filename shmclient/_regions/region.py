"""The handles of published regions. Does no I/O."""

from __future__ import annotations

import fcntl
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar

from shmclient import _codecs as codecs
from shmclient._codecs.exporting import as_array, exported
from shmclient._codecs.libraries import LibraryName
from shmclient._pointers.roots import Root, pointer_type
from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._regions.mapped import Growing, Lease, Mapped, attach, follow_line
from shmprotocol.abi.header import FLAG_GROWS, HEADER_SIZE
from shmprotocol.errors import InvalidArgument, RegionClosed
from shmprotocol.kernel import address_space
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.native.builtins import Current, Exporter, Held
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import origin_of

if TYPE_CHECKING:
    from shmclient._pointers.plan import Pointed


class RegionHandle(Current, Exporter):
    """A published region: the common part of `Region` (sync) and `AsyncRegion`.

    The handle owns a descriptor and a share of the mapping. Views, arrays and roots have their own shares:
    they stay valid after `close`, and the last of them unmaps the region. Addresses and sizes are bytes.
    """

    def __init__(self) -> None:
        raise TypeError(f"a {type(self).__name__} has no constructor: use client.open() or client.put()")

    # The fast road makes a handle that has only its grant and `_held`, which owns its descriptor and its
    # mapping, or the lease before it is mapped, until a descriptor is asked for. All else stands here.
    _grant: m.Grant
    _host_id: str
    _held: Held | None = None
    _lease: Lease | None = None
    _owned: descriptors.Owned = descriptors.NONE
    _is_shared = True  # the open file description: the host sends the same one to all clients
    _anywhere = False
    _mapped: Mapped | None = None
    _buffer: Any = None
    _is_closed = False
    _board: Board | None = None  # the one that it looks at, or tried to
    _client: Any = None

    def _start(self, grant: m.Grant, lease: Lease, owned: descriptors.Owned, anywhere: bool) -> None:
        self._grant = grant
        self._lease = lease
        self._host_id = lease.host_id
        self._owned = owned
        self._anywhere = anywhere

    def _follow(self, board: Board | None) -> bool:
        """Look at the line of the region from now on; False if there is none, or if it does so already."""
        if board is self._board:
            return False
        self._board = board
        return follow_line(self, board, self._grant)

    @property
    def name(self) -> str:
        """The name it was published under."""
        return self._grant.name

    @property
    def generation(self) -> int:
        """The version of the name, from 1."""
        return self._grant.generation

    @property
    def number(self) -> int:
        """The host's number for this region, which neither it nor its successor after a kill uses again."""
        return self._grant.region

    @property
    def size(self) -> int:
        """The bytes of the payload: `len(region.data)`. With a `max_size`: those that it has grown to."""
        return self._grant.size if not self._grant.flags & FLAG_GROWS else self._grown() - HEADER_SIZE

    @property
    def capacity(self) -> int:
        """The bytes of the memory object, in whole pages: header page, payload and metadata."""
        return self._grant.capacity if not self._grant.flags & FLAG_GROWS else self._grown()

    @property
    def address(self) -> int:
        """The address of the mapping: the region's own address, unless it `is_relocated`."""
        return self._attach().address

    @property
    def is_relocated(self) -> bool:
        """Whether it is mapped at an address other than its own, so that pointers need `translate`."""
        return self.address != self._grant.address

    @property
    def header(self) -> Any:
        """The pinned-pointer header: a cffi `struct shm_region_header *`, which keeps the mapping."""
        mapped = self._attach()
        return address_space.native_header(mapped.address, mapped.view())

    @property
    def data(self) -> memoryview:
        """The payload, not copied: read-only, but of a shared region for those who may write it."""
        return self._attach().data()

    @property
    def metadata(self) -> dict[str, Any]:
        """The publisher's description of the payload; a new dict at each call."""
        return dict(self._attach().metadata)

    @property
    def array(self) -> Any:
        """The value, if it is a NumPy array, as `value` returns it. TypeError if it is not one."""
        codecs.check_array(self.name, self._attach().metadata)
        return self.value()

    def value(self, *, as_: LibraryName | None = None) -> Any:
        """Return what `get` would return for this generation; it keeps the mapping, also after `close`."""
        mapped = self._attach()
        return mapped.value() if as_ is None else mapped.value_as(as_, self._lend)

    def root(self, ffi: Any, ctype: str) -> Any:
        """Return the root pointer as `ctype` of a cffi FFI, which keeps the region mapped.

        Pointers read from it do not keep the mapping: hold the root, or this handle. BadRegion: there is
        no root, or it is smaller than the type. AddressConflict: the region is relocated, so that its
        pointers do not point into it.
        """
        mapped = self._attach()
        header = mapped.header
        root = Root(self.name, header.root, header.root_size, mapped.metadata, header.base, mapped.address)
        kind = pointer_type(ffi, ctype, root)
        return address_space.pointer_keeping(ffi, kind, header.root, mapped.view())

    def translate(self, pointer: int) -> int:
        """Return the local address for an address of the region; InvalidArgument if it is not inside."""
        offset = pointer - self._grant.address
        if not 0 <= offset < self._grant.capacity:
            raise InvalidArgument(f"{pointer:#x} is not in {self!r}")
        return self.address + offset

    def fileno(self) -> int:
        """Return the read-only descriptor; the handle closes it. RegionClosed after `close`.

        It has its own offset and flags (lseek(2), `F_SETFL`), so that read(2) affects only this handle. **Not
        always**: if /proc/self/fd cannot be opened (/proc is not mounted, RLIMIT_NOFILE is reached, the
        backend is shm and the host another user) it shares them with every reader of the region, of every
        user. Portable code uses pread(2) or mmap(2), never read(2) or lseek(2).
        """
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:
            descriptor = self._open_descriptor()
            if self._is_shared:
                self._is_shared = False  # or not, and then it stays so: the offset must not jump later
                descriptors.separate(descriptor)
        return descriptor

    def close(self) -> None:
        """Close the handle. Views stay valid. May be called again; never waits, never raises."""
        held = self._held
        if held is not None and held.close():
            self._mapped, self._is_closed = None, True
            return
        # Not while another thread maps it, or gives it a descriptor of its own where this one was.
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:
            self._close()

    def _close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._owned.close()
        self._mapped = self._buffer = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not getattr(self, "_is_closed", True) and not is_finalizing():
            self._close()  # nobody else has it, and a destructor must not wait for the lock

    def __copy__(self) -> Self:
        """Return another handle of the same region, with a descriptor of its own; they share the mapping."""
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:
            mapped, descriptor = self._attach(), self._open_descriptor()
            memory = mapped.memory()
            other = self.__new__(type(self))
            other._grant, other._host_id, other._anywhere = self._grant, self._host_id, self._anywhere
            other._owned = descriptors.Owned([fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)])
            other._mapped, other._buffer, other._client = mapped, memory, self._client
            return other

    def __deepcopy__(self, memo: object) -> Self:
        return self.__copy__()  # its content cannot change

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Return the value for NumPy: `np.asarray(region)` is the array in the region, not a copy."""
        return as_array(self.value(), repr(self), dtype, copy=copy)

    def __len__(self) -> int:
        """Return the length of the value: of a text or an array, the number of keys of a dict."""
        return len(self.value())

    def __bool__(self) -> bool:
        return True  # also if its value is empty

    def __bytes__(self) -> bytes:
        return bytes(self.data)

    def _exported(self) -> Any:
        """Return what `memoryview(region)` is a view of."""
        return exported(self.value(), repr(self))

    def __repr__(self) -> str:
        grant = self._grant
        return (
            f"<{type(self).__name__} {grant.name!r} generation {grant.generation} "
            f"at {grant.address:#x}, {grant.size} bytes{', closed' if self._is_closed else ''}>"
        )

    def _grown(self) -> int:
        """Return the bytes of the object of a region that can grow."""
        if not self._is_closed:
            mapped = self._attach()
            if isinstance(mapped, Growing):
                capacity = mapped.follow()
                self._grant = mapped.grant
                return capacity
        return self._grant.size + HEADER_SIZE

    def _open_descriptor(self) -> int:
        if self._held is not None:
            self._owned = descriptors.Owned()
            if (lane := self._held.lane) is not None:
                self._lease = Lease.to_come(lane.outbox, self._held.lease)
                self._held.give(self._owned, self._lease)
                if self._owned:
                    self._lease.keep(self._grant.region, self._owned[0])
            else:
                self._buffer = self._held.take(self._owned)
            self._held = None
        if self._is_closed or not self._owned:  # the second: by a thread that is just about to say so
            raise RegionClosed(f"the handle of {self.name!r} is closed")
        return self._owned[0]

    def _lend(self) -> descriptors.Owned:
        """Return a copy of the descriptor, which the caller owns."""
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:
            return descriptors.Owned([fcntl.fcntl(self._open_descriptor(), fcntl.F_DUPFD_CLOEXEC, 0)])

    def _attach(self) -> Mapped:
        mapped = self._mapped
        return self._attach_once() if mapped is None else mapped

    def _attach_once(self) -> Mapped:
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:  # for one thread at a time
            held = self._held
            if held is not None and held.lane is not None:
                held.map(self._grant)
            buffer = held.memory if held is not None else self._buffer
            if buffer is not None:  # the fast road has mapped it
                mapped = Mapped(self._grant, None)
                mapped.buffer, mapped.address = weakref.ref(buffer), self._grant.address
                self._mapped = mapped
                return mapped
            descriptor = self._open_descriptor()
            if self._mapped is None:
                lease = self._lease
                assert lease is not None
                anywhere = self._anywhere
                self._mapped, self._buffer = attach(self._grant, lease, descriptor, None, anywhere=anywhere)
                self._lease = None  # the mapping's now
            return self._mapped


# The interface of a handle for the rest of the client. Functions, so that `help(Region)` does not show them.

R = TypeVar("R", bound=RegionHandle)


def make_region(
    kind: type[R], grant: m.Grant, lease: Lease, owned: descriptors.Owned, *, anywhere: bool = False
) -> R:
    """Return a handle, which owns the descriptor and one share of the lease from then on."""
    region = kind.__new__(kind)
    region._start(grant, lease, owned, anywhere)
    return region


def attached(region: RegionHandle) -> Mapped:
    """Map a region, unless it is mapped already. AddressConflict, BadRegion: see the client's `open`."""
    return region._attach()


def adopted(region: R, client: Any) -> R:
    """Return a handle whose client this is: it is asked whether the region is current."""
    region._client = client
    return region


def close_all(regions: Iterable[RegionHandle]) -> None:
    """Close handles: an operation that opens all or none has failed."""
    for region in regions:
        region.close()


def is_region_of(region: RegionHandle, host_id: str, number: int) -> bool:
    """Whether it is the region with this number of this host."""
    return (origin_of(region._host_id), region.number) == (origin_of(host_id), number)


def pointed_in(region: RegionHandle) -> Pointed:
    """Return what `check_pointers` looks at; BadRegion when the header is broken."""
    from shmclient._pointers.plan import Pointed

    mapped = attached(region)
    header = mapped.header
    is_array = str(mapped.metadata.get("root", "")).endswith("]")
    view = mapped.whole() if isinstance(mapped, Growing) else mapped.view()
    end = len(view) if isinstance(mapped, Growing) else header.size
    return Pointed(region.name, view, header.base, end, header.root, header.root_size, is_array)
