"""Published regions as this process holds them: the lease, the mapping, the handle. Does no I/O."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from shmclient import _codecs as codecs
from shmclient._codecs.again import recipe
from shmclient._connection.outbox import Outbox
from shmclient._pointers.plan import Pointed
from shmclient._process.address_space import ADDRESS_SPACE, region_label
from shmclient._process.copying import not_copied
from shmprotocol.abi.header import FLAG_UNSEALED, HEADER_SIZE, Header, check_header
from shmprotocol.errors import AddressConflict, BadRegion, InvalidArgument, RegionClosed
from shmprotocol.kernel import address_space
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.native.builtins import Current, Held
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m


class Lease:
    """A lease of this process: released when its last user is gone."""

    _is_over = True

    def __init__(self, outbox: Outbox, number: int) -> None:
        self._number = number
        self._users: set[object] = {None}  # adding and discarding are atomic
        self._outbox = outbox
        self.host_id = outbox.host_id
        self.board = outbox.board
        self._is_over = False
        outbox.hold(number)

    def share(self, user: object) -> Lease:
        """Add a user, who calls `release` as well; before the others can have released it."""
        self._users.add(user)
        return self

    def release(self, user: object = None) -> None:
        """Release the share of a user, by default the first one's.

        Never waits; safe in a destructor, on any thread. May be called again, as it is after Ctrl-C.
        """
        self._users.discard(user)
        if not self._users:  # two threads may see that: the outbox gives back once
            self._end()

    def _end(self) -> None:
        self._outbox.give_back(self._number, m.Release(0, (self._number,)))
        self._is_over = True

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Of a lease that no user got, because Ctrl-C came first.
        if not self._is_over and not is_finalizing():
            self._end()


class Mapped(Current):
    """The data about a live mapping. Refers to the buffer weakly: only views keep it."""

    __slots__ = (
        "__weakref__",
        "_board",
        "_header",
        "_metadata",
        "_table",
        "address",
        "buffer",
        "grant",
    )

    # No functools.cached_property: before Python 3.12 it holds a lock of the whole process, and a child
    # that is forked meanwhile would wait for it for ever. Two threads may read the same values twice.

    def __init__(self, grant: m.Grant, board: Board | None) -> None:
        self.grant = grant
        follow_line(self, board, grant)
        self.address = 0
        self.buffer: weakref.ref[Any] | None = None
        self._header: Header | None = None
        self._metadata: dict[str, Any] | None = None
        self._table: dict[str, Mapped] | None = None
        self._board = board

    def renew(self, grant: m.Grant) -> None:
        """Take a grant that says that it is current still, perhaps with other rights."""
        follow_line(self, self._board, grant)

    def end(self) -> None:
        """Note that nothing is mapped any more."""
        self.buffer = None
        table = self._table
        # Another region can only get its name in between, and is found again by the host then.
        if table is not None and table.get(self.grant.name) is self:
            table.pop(self.grant.name, None)

    @property
    def header(self) -> Header:
        """The header's values, copied and checked on first use."""
        if self._header is None:
            page = bytes(self.view()[:HEADER_SIZE])  # a copy: its publisher may have it writable
            self._header = check_header(page, self.grant.capacity)
        return self._header

    @property
    def metadata(self) -> dict[str, Any]:
        """The unpacked metadata; BadRegion if it is not a map."""
        if self._metadata is None:
            header, view = self.header, self.view()
            start = header.metadata - header.base
            raw = bytes(view[start : start + header.metadata_size]) if header.metadata else b""
            self._metadata = codecs.unpack_metadata(raw)
        return self._metadata

    def is_mapped(self) -> bool:
        """Whether a view still keeps the mapping."""
        return self.buffer is not None and self.buffer() is not None

    def view(self) -> memoryview:
        """Return a read-only view of the whole region, which keeps the mapping.

        RegionClosed: another thread has closed the handle meanwhile, and nothing else kept the mapping.
        """
        return memoryview(self.memory())

    def data(self) -> memoryview:
        """Return a read-only view of the payload's data."""
        return self.view()[HEADER_SIZE : HEADER_SIZE + self.grant.size]

    def payload(self) -> memoryview:
        """Return a read-only view of the data and of what lies behind it: metadata, the index of a dict."""
        return self.view()[HEADER_SIZE : self.header.size]

    def value(self) -> Any:
        """Return the value, as it was put: views that keep the mapping. RegionClosed as for `view`."""
        value = codecs.decode(self.metadata, self.data(), self.payload)
        how = recipe(value, self.metadata, self.address)
        if how is not None:
            self._make_by(self.buffer, *how)
        return value

    def memory(self) -> Any:
        """Return the buffer of the whole region. RegionClosed as for `view`."""
        buffer: Any = self.buffer() if self.buffer is not None else None
        if buffer is None:
            raise RegionClosed(f"the handle of {self.grant.name!r} is closed")
        return buffer


def attach(grant: m.Grant, lease: Lease, descriptor: int, *, anywhere: bool) -> tuple[Mapped, Any]:
    """Map a granted region; return the data about the mapping, and the buffer that keeps it.

    The mapping then owns the lease, unless there is an error. The caller still owns the descriptor.
    """
    mapped = Mapped(grant, lease.board)

    def after() -> None:
        mapped.end()  # and keeps `mapped` alive until now
        lease.release()

    mapping = ADDRESS_SPACE.attach(
        (lease.host_id, grant.region),
        descriptor,
        grant.address,
        grant.capacity,
        after,
        region_label(grant.name, grant.generation),
        unsealed=bool(grant.flags & FLAG_UNSEALED),
        anywhere=anywhere,
    )
    mapped.buffer = weakref.ref(mapping.memory)
    mapped.address = mapping.address
    return mapped, mapping.memory


def follow_line(current: Current, board: Board | None, grant: m.Grant) -> bool:
    """Have a handle look at the line of its region; False if there is none."""
    line = board.line(grant.line) if board is not None else 0
    if line:
        assert board is not None
        current._follow_line(board, board.owner, line, grant.region, grant.rights)
    return bool(line)


def note_mapped(table: dict[str, Mapped], mapped: Mapped) -> None:
    """Have a mapping found by its name, as long as a view keeps it."""
    mapped._table = table
    table[mapped.grant.name] = mapped
    if mapped.buffer is None:  # it went meanwhile, perhaps before it was in the table
        mapped.end()


class RegionHandle(Current):
    """A published region: the common part of `Region` (sync) and `AsyncRegion`.

    The handle owns a descriptor and a share of the mapping. Views, arrays and roots have their own shares:
    they stay valid after `close`, and the last of them unmaps the region. Addresses and sizes are bytes.
    """

    def __init__(self) -> None:
        raise TypeError(f"a {type(self).__name__} has no constructor: use client.open() or client.put()")

    # The fast road makes a handle that has only its grant and `_held`, which owns its descriptor and its
    # mapping until a descriptor is asked for. All else stands here.
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
    _has_looked = False  # for its line on the board
    _client: Any = None

    def _start(self, grant: m.Grant, lease: Lease, owned: descriptors.Owned, anywhere: bool) -> None:
        self._grant = grant
        self._lease = lease
        self._follow(lease.board)
        self._host_id = lease.host_id
        self._owned = owned
        self._anywhere = anywhere

    def _follow(self, board: Board | None) -> bool:
        """Look at the line of the region from now on; False if there is none, or if it does so already."""
        if self._has_looked:
            return False
        self._has_looked = True
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
        """The host's number for this region, which the host never reuses. The next host starts at 1."""
        return self._grant.region

    @property
    def size(self) -> int:
        """The bytes of the payload: `len(region.data)`."""
        return self._grant.size

    @property
    def capacity(self) -> int:
        """The bytes of the memory object, in whole pages: header page, payload and metadata."""
        return self._grant.capacity

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
        """The payload, read-only and not copied."""
        return self._attach().data()

    @property
    def metadata(self) -> dict[str, Any]:
        """The publisher's description of the payload; a new dict at each call."""
        return dict(self._attach().metadata)

    @property
    def array(self) -> Any:
        """The value, if it is a NumPy array, as `value` returns it. TypeError if it is not one."""
        kind = self._attach().metadata.get("format")
        if kind != codecs.ARRAY:
            raise TypeError(f"{self.name!r} is not an array but has the format {kind!r:.40}: use value()")
        return self.value()

    def value(self) -> Any:
        """Return what `get` would return for this generation; it keeps the mapping, also after `close`."""
        return self._attach().value()

    def root(self, ffi: Any, ctype: str) -> Any:
        """Return the root pointer as `ctype` of a cffi FFI, which keeps the region mapped.

        Pointers read from it do not keep the mapping: hold the root, or this handle. BadRegion: there is
        no root, or it is smaller than the type. AddressConflict: the region is relocated, so that its
        pointers do not point into it.
        """
        mapped = self._attach()
        header, kind = mapped.header, ffi.typeof(ctype)
        if self.is_relocated:
            raise AddressConflict(
                f"{self.name!r} is mapped at {mapped.address:#x}, its pointers are made for "
                f"{header.base:#x}: follow them with translate(), or attach it at its own address"
            )
        if not header.root:
            raise BadRegion(f"{self.name!r} has no root: it is data; see its metadata, {mapped.metadata}")
        if kind.kind != "pointer":
            raise TypeError(f"a root is a pointer such as 'struct node *', not {ctype!r}")
        if ffi.sizeof(kind.item) > header.root_size:
            raise BadRegion(
                f"{kind.item.cname} has {ffi.sizeof(kind.item)} bytes, the root of {self.name!r} "
                f"{header.root_size}: it was published as {mapped.metadata.get('root', 'something else')}"
            )
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

    def __reduce__(self) -> NoReturn:
        remedy = "pass its name and generation, and open it in the other process"
        raise not_copied(self, remedy)

    def __repr__(self) -> str:
        grant = self._grant
        return (
            f"<{type(self).__name__} {grant.name!r} generation {grant.generation} "
            f"at {grant.address:#x}, {grant.size} bytes{', closed' if self._is_closed else ''}>"
        )

    def _open_descriptor(self) -> int:
        if self._held is not None:
            self._owned = descriptors.Owned()
            self._buffer = self._held.take(self._owned)
            self._held = None
        if self._is_closed:
            raise RegionClosed(f"the handle of {self.name!r} is closed")
        return self._owned[0]

    def _attach(self) -> Mapped:
        mapped = self._mapped
        return self._attach_once() if mapped is None else mapped

    def _attach_once(self) -> Mapped:
        with ADDRESS_SPACE.draining, ADDRESS_SPACE.lock:  # for one thread at a time
            buffer = self._held.memory if self._held is not None else self._buffer
            if buffer is not None:  # the fast road has mapped it
                mapped = Mapped(self._grant, None)
                mapped.buffer, mapped.address = weakref.ref(buffer), self._grant.address
                self._mapped = mapped
                return mapped
            descriptor = self._open_descriptor()
            if self._mapped is None:
                lease = self._lease
                assert lease is not None
                self._mapped, self._buffer = attach(self._grant, lease, descriptor, anywhere=self._anywhere)
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
    return (region._host_id, region.number) == (host_id, number)


def pointed_in(region: RegionHandle) -> Pointed:
    """Return what `check_pointers` looks at; BadRegion when the header is broken."""
    mapped = attached(region)
    header = mapped.header
    is_array = str(mapped.metadata.get("root", "")).endswith("]")
    sizes = (header.base, header.size, header.root, header.root_size)
    return Pointed(region.name, mapped.view(), *sizes, is_array)
