"""The memory of arenas and of ledgers: objects that one process writes, and the kernel lets nobody else.

Each owns its descriptors until `close`. The owner of an arena, or the client of a ledger, maps the object
first; then F_SEAL_FUTURE_WRITE lets nobody map it writable again, whatever descriptor he has,
memfd_create(2). The host adds that seal to arenas, and clients to their ledgers: what it protects is theirs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

from shmhost.core import apart
from shmhost.core.objects import ARENA_SEALS, new_memfd, refusal_of
from shmprotocol.abi.header import FLAG_ARENA, FLAG_SEAL_WRITER, HEADER_SIZE
from shmprotocol.errors import InvalidArgument
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE
from shmprotocol.wire import descriptors
from shmprotocol.wire.names import LEDGER_SIZE, Seal

_FIGURES = struct.Struct("<Q8xQQ")  # generation, names, value_bytes of struct shm_arena_control
_FIGURES_AT = 64


class ArenaMemory:
    """The object of an arena, of `capacity` bytes, with this header page. ShmError: the system has no more.

    It cannot shrink from the start, so that no reader faults. Its owner can make it larger by the descriptor
    that it has, unless it cannot grow.
    """

    def __init__(self, name: str, capacity: int, can_grow: bool, header: bytes) -> None:
        self.capacity: int = capacity
        self.is_published: bool = False
        seals = fcntl.F_SEAL_SHRINK | (0 if can_grow else fcntl.F_SEAL_GROW)
        try:
            self._writer, self._reader = _make(f"shmhost:{name}", capacity, seals, header)
        except OSError as error:
            raise refusal_of(error, f"make an arena of {capacity} bytes") from None

    @classmethod
    def taken(cls, capacity: int, reader: int, writer: int, is_published: bool) -> ArenaMemory:
        """Return the object of an arena of another host, which owns these descriptors from then on."""
        memory_object = cls.__new__(cls)
        memory_object.capacity, memory_object.is_published = capacity, is_published
        memory_object._writer, memory_object._reader = writer, reader
        return memory_object

    def flag(self, seal: Seal) -> int:
        """Return the header flags that say what protects it."""
        return FLAG_SEAL_WRITER | FLAG_ARENA

    def writer(self) -> int:
        """Return the read-write descriptor, which stays the object's."""
        return self._writer

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""
        return self._reader

    def adopt_writer(self, writer: int) -> None:
        """Own a read-write descriptor from now on; there is none yet."""
        assert self._writer < 0
        self._writer = writer

    def publish(self) -> None:
        """Add the seals, once. Not for the event loop: the owner can hold the object's lock.

        A thread of a host before may have added them, which that one did not wait for. OSError: the owner has
        sealed it itself. InvalidArgument: the owner has made it larger.
        """
        if self.is_published:
            return
        if self.is_larger():
            raise InvalidArgument("the owner changed the size of the object: create it again")
        if not self._is_sealed():
            apart.add_seals(self._writer, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
        self.is_published = self._is_sealed()

    def _is_sealed(self) -> bool:
        seals: int = fcntl.fcntl(self._reader, fcntl.F_GET_SEALS)
        return seals & ARENA_SEALS == ARENA_SEALS

    def grow(self, capacity: int) -> None:
        """Give it more bytes. Not for the event loop, as `publish`. OSError: the owner has prevented it."""
        apart.resize(self._writer, capacity)
        self.capacity = capacity

    def figures(self) -> tuple[int, int, int]:
        """Return what its owner says: names, bytes of their values, and values that were ever published."""
        said = os.pread(self._reader, _FIGURES.size, HEADER_SIZE + _FIGURES_AT)
        generation, names, size = _FIGURES.unpack(said)
        return names, size, generation

    def is_larger(self) -> bool:
        """Whether its owner has made it larger than `capacity`."""
        return os.fstat(self._reader).st_size > self.capacity

    def close(self) -> None:
        """Close what is open. The last close of a large object takes milliseconds: it frees the pages."""
        for descriptor in (self._writer, self._reader):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._reader = -1


class LedgerMemory:
    """The object of a ledger, of zeros, and its event. ShmError: the system has no more.

    The event is a pair of sockets, not an eventfd. All who have an eventfd share its flags: a client could
    make it block, fill it, and stop an owner at its next put. To a socket each call says not to wait.
    """

    def __init__(self) -> None:
        self.capacity = LEDGER_SIZE
        with contextlib.ExitStack() as undo:
            try:
                self._event, self._raiser = ends = _make_event()
                undo.callback(descriptors.close_all, list(ends))
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
                self._writer, self._reader = _make("ledger:shmhost", LEDGER_SIZE, seals, b"")
            except OSError as error:
                raise refusal_of(error, "make a ledger") from None
            undo.pop_all()

    @classmethod
    def taken(cls, reader: int, raiser: int) -> LedgerMemory:
        """Return the ledger of a client of another host, which owns these descriptors from then on."""
        memory_object = cls.__new__(cls)
        memory_object.capacity = LEDGER_SIZE
        memory_object._reader, memory_object._raiser = reader, raiser
        memory_object._writer = memory_object._event = -1
        return memory_object

    @classmethod
    def restored(cls, reader: int) -> LedgerMemory:
        """Return a ledger that its client has handed back, which owns this descriptor then. OSError."""
        event, raiser = _make_event()
        memory_object = cls.taken(reader, raiser)
        memory_object._event = event
        return memory_object

    def writer(self) -> int:
        """Return the read-write descriptor, until `hand_over`."""
        return self._writer

    def reader(self) -> int:
        """Return the read-only descriptor, which stays the object's."""
        return self._reader

    def event(self) -> int:
        """Return the client's end of the event, until `hand_over`."""
        return self._event

    def raiser(self) -> int:
        """Return the owners' end of the event, which stays the object's."""
        return self._raiser

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes as they are just now, which the client wrote."""
        return os.pread(self._reader, size, offset)

    def renew(self) -> None:
        """Make another event, unless the client has not got this one. OSError."""
        if self._event < 0:
            ends = _make_event()
            os.close(self._raiser)
            self._event, self._raiser = ends

    def hand_over(self) -> None:
        """Close the read-write descriptor and the event: the client has them."""
        descriptors.close_all([each for each in (self._writer, self._event) if each >= 0])
        self._writer = self._event = -1

    def close(self) -> None:
        """Close what is open."""
        for descriptor in (self._writer, self._reader, self._event, self._raiser):
            if descriptor >= 0:
                os.close(descriptor)
        self._writer = self._reader = self._event = self._raiser = -1


def _make_event() -> tuple[int, int]:
    """Return the two ends of an event, the client's first. OSError."""
    with contextlib.ExitStack() as undo:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        for end in ends:
            undo.callback(end.close)
        for end in ends:
            descriptors.refuse(end)  # an owner's could make the client's close wait
        undo.pop_all()
        return ends[0].detach(), ends[1].detach()


def _make(label: str, capacity: int, seals: int, header: bytes) -> tuple[int, int]:
    """Return a read-write and a read-only descriptor of a new object. OSError: none is left open."""
    with contextlib.ExitStack() as undo:
        writer = new_memfd(label.encode()[:200].decode(errors="ignore"))
        undo.callback(os.close, writer)
        os.ftruncate(writer, capacity)
        os.pwrite(writer, header, 0)
        fcntl.fcntl(writer, fcntl.F_ADD_SEALS, seals)
        os.fchmod(writer, 0o444)  # as for regions: a read-only descriptor opens no writable one
        reader = descriptors.reopen(writer)
        undo.pop_all()
        return writer, reader.pop()
