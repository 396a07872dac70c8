"""Descriptors that clients hand back: what the kernel says of them, and how they become a region's object.

Nothing here waits for a stranger. F_GET_SEALS comes first: only files of memfd_create(2), tmpfs and hugetlbfs
have seals, all of them in memory, and the kernel answers for them at once. The server of another file (FUSE,
NFS) could keep the host waiting for an fstat(2). A change of the mode waits for the object's lock, which its
writers can hold: a thread makes that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from concurrent.futures import CancelledError, Future

from shmhost.core.expected import Returned
from shmhost.core.objects import ArenaObject, Memfd, MemoryObject, PosixShm, ShmNames
from shmhost.core.processes import Process
from shmhost.core.records import Identity, Record
from shmhost.machine.arena_memory import ArenaMemory, LedgerMemory
from shmhost.machine.growing_memory import GrowingMemfd
from shmhost.machine.processes import is_gone, may_be
from shmprotocol.abi.header import KIND_ARENA
from shmprotocol.native import builtins
from shmprotocol.wire.names import Backend, Seal

REOPEN_S = 0.01  # it takes microseconds when nobody holds the lock


class Returnables:
    """The kernel's part of taking regions back. `names` are those of the host in /dev/shm."""

    def __init__(self, names: ShmNames) -> None:
        self._names = names
        self._reopening: dict[int, Future[int]] = {}  # by user, whose objects' locks a thread waits for

    def examine(self, descriptor: int) -> Returned | None:
        """Describe an object; None if it is not one of memory. Waits for nobody."""
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            identity = Identity._make(builtins.identify(descriptor))
            return Returned(identity, os.fstat(descriptor).st_size, seals)
        except OSError:  # a socket, a pipe, O_PATH, a file of another kind
            return None

    def close(self, descriptor: int) -> None:
        """Close a descriptor of an object of which the host has another one: nothing is freed by that."""
        os.close(descriptor)

    def adopt(self, record: Record, descriptor: int) -> MemoryObject:
        """Return the object of a region; the descriptor stays the caller's. OSError."""
        reader = _read_only(descriptor)
        if record.kind == KIND_ARENA:
            return ArenaMemory.taken(os.fstat(reader).st_size, reader, -1, True)
        if record.backend is Backend.SHM:
            return PosixShm.of(record.name, record.capacity, self._names, reader)
        if record.seal is not Seal.SHARED and not record.extent:
            return Memfd.of(record.capacity, reader)
        try:
            writer = self._writer_of(reader, record.owner.uid)
        except OSError:
            os.close(reader)
            raise
        if record.extent:
            return GrowingMemfd.taken(os.fstat(reader).st_size, reader, writer, False)
        return Memfd.taken(record.capacity, reader, writer, False)

    def _writer_of(self, reader: int, uid: int) -> int:
        """Return a new read-write descriptor of a user's object, from a read-only one. OSError.

        EAGAIN: not now. The user holds up a thread, and has only one.
        """
        try:
            return os.open(*_for_writing(reader))
        except PermissionError:  # for its mode
            if uid in self._reopening and not self._reopening[uid].done():
                raise _not_now() from None
        copy = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, 0)
        future = self._reopening[uid] = Future[int]()
        try:
            threading.Thread(target=_reopen, args=(copy, future), daemon=True).start()
        except RuntimeError:  # there is none
            os.close(copy)
            future.cancel()
        try:
            return future.result(REOPEN_S)
        except CancelledError:
            raise _not_now() from None
        except TimeoutError:
            future.add_done_callback(_close_result)
            raise _not_now() from None

    def left_by(self, record: Record) -> MemoryObject | None:
        """Return the object that a region has left under its name in /dev/shm; None if there is none."""
        if record.backend is not Backend.SHM:
            return None
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            reader = os.open(self._names.path_of(record.name), flags)
        except OSError:  # it has gone, or is a link
            return None
        try:
            if builtins.identify(reader) == record.identity:
                return PosixShm.of(record.name, record.capacity, self._names, reader)
        except OSError:  # of a file system that the kernel does not ask
            pass
        os.close(reader)
        return None

    def adopt_writer(self, memory_object: ArenaObject, descriptor: int) -> bool:
        """Let the host grow an arena by a descriptor, which stays the caller's; False if it cannot write."""
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            return False
        assert isinstance(memory_object, ArenaMemory)
        if memory_object.writer() < 0:  # the one that it has may be in use by a thread
            memory_object.adopt_writer(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0))
        return True

    def adopt_ledger(self, descriptor: int) -> LedgerMemory:
        """Return the object of a ledger, with a new event; the descriptor stays the caller's. OSError."""
        reader = _read_only(descriptor)
        try:
            return LedgerMemory.restored(reader)
        except BaseException:
            os.close(reader)
            raise

    def may_be(self, process: Process, pid: int) -> bool:
        """Whether a process that is there may be the one that was: False if it is certainly another one."""
        return may_be(process, pid)

    def is_gone(self, process: Process) -> bool:
        """Whether a process that was there has certainly ended."""
        return is_gone(process)


def _not_now() -> OSError:
    return OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _reopen(copy: int, future: Future[int]) -> None:
    """Open a user's object for writing, whose mode, 0444, lets nobody do so; close what is given."""
    try:
        os.fchmod(copy, 0o600)
        try:
            writer = os.open(*_for_writing(copy))
        finally:
            os.fchmod(copy, 0o444)
    except OSError as error:
        future.set_exception(error)
    else:
        future.set_result(writer)
    finally:
        os.close(copy)


def _for_writing(reader: int) -> tuple[str, int]:
    return f"/proc/self/fd/{reader}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK


def _close_result(future: Future[int]) -> None:
    if future.exception() is None:
        os.close(future.result())


def _read_only(descriptor: int) -> int:
    """Return a descriptor that cannot write, for readers to get."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
    # O_NONBLOCK: an error rather than a wait, should the client have a lease on it (F_SETLEASE).
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
