"""Regions of this process without a handle: their leases, and the data about their mappings. Does no I/O."""

from __future__ import annotations

import fcntl
import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

from shmclient import _codecs as codecs
from shmclient._codecs.again import recipe
from shmclient._codecs.libraries import WRITES, LibraryName, check_library, taken_by
from shmclient._connection.outbox import Outbox
from shmclient._process.address_space import ADDRESS_SPACE, region_label
from shmprotocol.abi.header import (
    FLAG_GROWS,
    FLAG_SEAL_SHARED,
    FLAG_UNSEALED,
    HEADER_SIZE,
    Header,
    check_header,
)
from shmprotocol.errors import RegionClosed
from shmprotocol.kernel.board import Reader as Board
from shmprotocol.native.builtins import Current, Kept
from shmprotocol.wire import descriptors as fds
from shmprotocol.wire import messages as m


class Lease:
    """A lease of this process: released when its last user is gone."""

    _is_over = True
    _kept: Kept | None = None

    def __init__(self, outbox: Outbox, number: int) -> None:
        self._number = number
        self._users: set[object] = {None}  # adding and discarding are atomic
        self._outbox = outbox
        self.host_id, self.origin = outbox.host_id, outbox.origin
        self._is_over = False
        outbox.hold(number)

    @classmethod
    def to_come(cls, outbox: Outbox, number: int) -> Lease:
        """Return one that gives nothing back until `_is_over` is False: `Held.give` passes it on."""
        lease = cls.__new__(cls)
        lease._number, lease._users, lease._outbox = number, {None}, outbox
        lease.host_id, lease.origin = outbox.host_id, outbox.origin
        return lease

    def keep(self, region: int, descriptor: int) -> None:
        """Keep a copy of a descriptor of the region for the next host, should this one be killed."""
        if self._outbox.home is not None:
            self._kept = Kept(self._outbox.home, region, descriptor, weakref.ref(self))

    def lend(self) -> fds.Owned:
        """Return a copy of the descriptor that is kept; an empty list if none is."""
        owned = fds.Owned()
        if self._kept is not None:
            self._kept.lend(owned)
        return owned

    def move(self, outbox: Outbox, number: int) -> None:
        """Have another number, of the next host: what the users had before has ended."""
        assert self._kept is not None
        outbox.hold(number)
        self._outbox, self._number = outbox, number
        if outbox.home is not None:
            self._kept.move(outbox.home)
        if not self._users:  # the last one went meanwhile; a second time gives nothing back
            self._end()

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
        if self._kept is not None:
            self._kept.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Of a lease that no user got, because Ctrl-C came first.
        if not self._is_over and not is_finalizing():
            self._end()


# Where the used part of a region ends, where its metadata begins (0: nowhere), and the bytes of that.
Inside = tuple[int, int, int]


class Mapped(Current):
    """The data about a live mapping. Refers to the buffer weakly: only views keep it."""

    __slots__ = (
        "__weakref__",
        "_board",
        "_header",
        "_inside",
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
        self._inside: Inside | None = None
        self._metadata: dict[str, Any] | None = None
        self._table: dict[str, Mapped] | None = None
        self._board = board

    def renew(self, grant: m.Grant, board: Board | None) -> None:
        """Take a grant that says that it is current still, perhaps with other rights or on another board."""
        self._board, self.grant = board or self._board, grant._replace(lease=self.grant.lease)
        follow_line(self, self._board, grant)

    def follows(self, board: Board) -> bool:
        """Whether it looks at this board."""
        return self._board is board

    def is_superseded(self) -> bool:
        """Whether the board says that it is not current any more. False: it is, or the host must be asked."""
        return self._is_granted() is False and not self._was_current()

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
            self._header = check_header(page, self._object_size())
        return self._header

    def _object_size(self) -> int:
        """Return the bytes of the object: what lies behind them is SIGBUS."""
        return self.grant.capacity

    @property
    def metadata(self) -> dict[str, Any]:
        """The unpacked metadata; BadRegion if it is not a map."""
        if self._metadata is None:
            self._metadata = codecs.unpack_metadata(self._packed())
        return self._metadata

    def _bounds(self) -> Inside:
        if self._inside is None:
            header = self.header
            start = header.metadata - header.base if header.metadata else 0
            self._inside = header.size, start, header.metadata_size
        return self._inside

    def _packed(self) -> bytes:
        _, start, size = self._bounds()
        return bytes(self.view()[start : start + size]) if start else b""

    def is_mapped(self) -> bool:
        """Whether a view still keeps the mapping."""
        return self.buffer is not None and self.buffer() is not None

    def view(self) -> memoryview:
        """Return a view of the whole region, which keeps the mapping: read-only unless it is shared.

        RegionClosed: another thread has closed the handle meanwhile, and nothing else kept the mapping.
        """
        return memoryview(self.memory())

    def data(self) -> memoryview:
        """Return a view of the payload's data."""
        return self.view()[HEADER_SIZE : HEADER_SIZE + self.grant.size]

    def payload(self) -> memoryview:
        """Return a view of the data and of what lies behind it: metadata, the index of a dict."""
        return self.view()[HEADER_SIZE : self._bounds()[0]]

    def value(self) -> Any:
        """Return the value, as it was put: views that keep the mapping. RegionClosed as for `view`."""
        value, metadata = codecs.decode_packed(self._packed(), self.data(), self.payload)
        how = recipe(value, metadata)
        if how is not None:
            self._make_by(self.buffer, *how)
        return value

    def value_as(self, library: LibraryName, lend: Callable[[], fds.Owned]) -> Any:
        """Return the value with a library's arrays, in private memory if that always writes; see `private`.

        `lend` returns a descriptor of the region.
        """
        check_library(library)
        if library not in WRITES or not self.view().readonly:
            return taken_by(library, self.value())
        from shmclient._regions.private import private_view

        owned = lend()
        try:
            is_sealed = not self.grant.flags & FLAG_UNSEALED
            memory = private_view(owned[0], 0, self._object_size(), self.memory(), is_sealed=is_sealed)
        finally:
            owned.close()
        data = memory[HEADER_SIZE : HEADER_SIZE + self.grant.size]
        return taken_by(
            library,
            codecs.decode_packed(self._packed(), data, lambda: memory[HEADER_SIZE : self._bounds()[0]])[0],
        )

    def memory(self) -> Any:
        """Return the buffer of the whole region. RegionClosed as for `view`."""
        buffer: Any = self.buffer() if self.buffer is not None else None
        if buffer is None:
            raise RegionClosed(f"the handle of {self.grant.name!r} is closed")
        return buffer


class Growing(Mapped):
    """The data about a mapping of a region that can grow: all is mapped that it may grow to.

    It owns a descriptor of the object, and asks the kernel for the size of that. The object never shrinks
    (F_SEAL_SHRINK), so a size is right for good, and each view of the data ends where the object ended when
    the view was made.
    """

    __slots__ = ("_file",)

    def __init__(self, grant: m.Grant, board: Board | None, descriptor: int) -> None:
        self._file = fds.Owned([fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)])
        super().__init__(grant, board)

    def end(self) -> None:
        """Note that nothing is mapped any more."""
        super().end()
        self._file.close()

    def follow(self) -> int:
        """Take note of what the region has grown to; return the bytes of its object."""
        grant, capacity = self.grant, self.grant.size + HEADER_SIZE
        memory = self.buffer() if self.buffer is not None else None
        if memory is not None:  # which keeps the descriptor, too: `end` comes after its end
            capacity = max(min(os.fstat(self._file[0]).st_size, grant.capacity), capacity)
        if capacity - HEADER_SIZE > grant.size:
            self.grant = grant._replace(size=capacity - HEADER_SIZE)
        return capacity

    def _object_size(self) -> int:
        return self.follow()

    def data(self) -> memoryview:
        """Return a view of the payload as far as it goes now."""
        self.follow()
        return super().data()

    def value(self) -> Any:
        """Return the value over the payload as far as it goes now; RegionClosed as for `view`."""
        return codecs.decode_packed(self._packed(), self.data(), self.data)[0]

    def value_as(self, library: LibraryName, lend: Callable[[], fds.Owned]) -> Any:
        """Return the value with a library's arrays, over the payload as far as it goes now."""
        self.follow()
        return super().value_as(library, lend)

    def whole(self) -> memoryview:
        """Return a view of the header page and the payload as far as it goes now."""
        return self.view()[: self.follow()]


def attach(
    grant: m.Grant, lease: Lease, descriptor: int, board: Board | None, *, anywhere: bool
) -> tuple[Mapped, Any]:
    """Map a granted region; return the data about the mapping, and the buffer that keeps it.

    The mapping then owns the lease, unless there is an error. The caller still owns the descriptor. `board`
    says whether it is current; None: nobody will ask.
    """
    mapped = Growing(grant, board, descriptor) if grant.flags & FLAG_GROWS else Mapped(grant, board)
    is_shared = bool(grant.flags & FLAG_SEAL_SHARED)

    def after() -> None:
        mapped.end()  # and keeps `mapped` alive until now
        lease.release()

    mapping = ADDRESS_SPACE.attach(
        (lease.origin, grant.region),
        descriptor,
        grant.address,
        grant.capacity,
        after,
        region_label(grant.name, grant.generation),
        unsealed=bool(grant.flags & FLAG_UNSEALED),
        shared=is_shared,
        writable=is_shared and _can_write(descriptor),
        anywhere=anywhere,
    )
    mapped.buffer = weakref.ref(mapping.memory)
    mapped.address = mapping.address
    return mapped, mapping.memory


def _can_write(descriptor: int) -> bool:
    """Whether the host has given the right to write: of a shared region it sends two kinds of descriptors."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


def mapped_already(grant: m.Grant, board: Board | None, buffer: Any, inside: Inside) -> Mapped:
    """Return the data about what the fast road has mapped, and this buffer keeps."""
    mapped = Mapped(grant, board)
    mapped._inside = inside

    def released(_: object) -> None:
        mapped.end()

    mapped.buffer, mapped.address = weakref.ref(buffer, released), grant.address
    return mapped


def follow_line(current: Current, board: Board | None, grant: m.Grant) -> bool:
    """Have a handle look at the line of its region; False if there is none."""
    line = board.line(grant.line) if board is not None else 0
    if line:
        assert board is not None
        current._follow_line(board, board.is_open, board.owner, line, grant.region, grant.rights)
    return bool(line)


def note_mapped(table: dict[str, Mapped], mapped: Mapped) -> None:
    """Have a mapping found by its name, as long as a view keeps it."""
    mapped._table = table
    table[mapped.grant.name] = mapped
    if mapped.buffer is None:  # it went meanwhile, perhaps before it was in the table
        mapped.end()
