"""Vectored I/O over pinned buffers: `struct iovec` arrays, and readv, writev and their kin."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, Protocol

from shmclient._pins.buffers import Buffers
from shmclient._process.copying import not_copied
from shmclient._process.fork import INNER, at_fork
from shmclient._process.lock import new_lock
from shmprotocol.errors import PinReleased
from shmprotocol.native.binding import ffi, lib

_WRITE, _AT = lib.SHM_TRANSFER_WRITE, lib.SHM_TRANSFER_AT
_INTERRUPTED = lib.SHM_TRANSFER_INTERRUPTED

# Guards how many transfers use each IoVec; held for a few instructions. A child of a fork gets it free.
_USES = new_lock()
at_fork(INNER, _USES.acquire, _USES.release)


class HasFileno(Protocol):
    """An object with a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor; the object still owns it."""


class IoVec:
    """A `struct iovec` array over pinned buffers, for native code (`address`, `len()`) and the calls below.

    As a sequence it has the buffers themselves, so that `os.readv` takes it too. An empty buffer is NULL with
    length 0. `unpin`, here, at the end of a `with` block or of its Pinner, zeroes the array and releases the
    buffers.
    """

    def __init__(self) -> None:
        raise TypeError("an IoVec has no constructor: use pinner.iovec(buffers)")

    def _start(self, owner: dict[Any, None], buffers: tuple[object, ...]) -> None:
        self._objects = buffers  # given up with the pins: a view among them would keep a region on
        self._buffers = Buffers(buffers)
        self._uses = 0  # by transfers of this process: a forked child has the number, but not the threads
        self._process = 0
        self._owner = owner
        owner[self] = None

    @property
    def address(self) -> int:
        """Where the array is: `len()` entries of 16 bytes. PinReleased after `unpin`."""
        self._check()
        return int(ffi.cast("uintptr_t", self._buffers.iov))

    def _overlaps(self, start: int, end: int) -> bool:
        """Whether a buffer of it has a byte in a range of addresses."""
        return self._buffers.overlap(start, end)

    @property
    def nbytes(self) -> int:
        """The bytes of all buffers."""
        self._check()
        return sum(self._buffers.entry(index)[1] for index in range(len(self)))

    def __len__(self) -> int:
        return self._buffers.count

    def __getitem__(self, index: Any) -> Any:
        self._check()
        return self._objects[index]

    def __iter__(self) -> Iterator[Any]:
        self._check()
        return iter(self._objects)

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "pass the data, and pin it in the other process")

    def __repr__(self) -> str:
        state = "" if self in self._owner else ", released"
        return f"<IoVec of {len(self)} buffers{state}>"

    def unpin(self) -> None:
        """Zero the array, then release the buffers. May be called again. BufferError: a transfer uses it."""
        with _USES:
            if self._uses and self._process == os.getpid():
                raise BufferError(
                    f"{self!r} is in use by a readv or writev of another thread: wait for it to finish"
                )
            released = self._owner.pop(self, self) is None
        if released:
            self._objects = ()
            self._buffers.release()

    def _check(self) -> None:
        if self not in self._owner:
            raise PinReleased(f"the pins of {self!r} are released: make a new one, or unpin later")

    def _begin_use(self) -> Buffers:
        """Have `unpin` refused until `_end_use`; PinReleased."""
        with _USES:
            self._check()
            process = os.getpid()
            self._uses = self._uses + 1 if process == self._process else 1
            self._process = process
        return self._buffers

    def _end_use(self) -> None:
        with _USES:
            self._uses -= 1

    def __enter__(self) -> IoVec:
        return self

    def __exit__(self, *_: object) -> None:
        self.unpin()


def make_iovec(owner: dict[Any, None], buffers: tuple[object, ...]) -> IoVec:
    """Pin buffers as one array, which is one of the owner's pins from then on."""
    iovec = IoVec.__new__(IoVec)
    iovec._start(owner, buffers)
    return iovec


def readv(fd: int | HasFileno, buffers: IoVec | Sequence[object]) -> int:
    """Read into buffers, one after the other, until all are full or the file ends; return the bytes read.

    Unlike `os.readv` it goes on after a short read, takes any number of buffers and those of cffi and
    regions. When something goes wrong after the first byte it returns what was read, and the next call
    raises: also where a descriptor does not block. OSError, BlockingIOError: nothing was read. BufferError: a
    buffer is read-only.
    """
    return _transfer(fd, buffers, 0, 0)


def writev(fd: int | HasFileno, buffers: IoVec | Sequence[object]) -> int:
    """Write buffers, one after the other; return the bytes written, all of them unless something went wrong.

    Short writes and errors are as for `readv`.
    """
    return _transfer(fd, buffers, 0, _WRITE)


def preadv(fd: int | HasFileno, buffers: IoVec | Sequence[object], offset: int) -> int:
    """Read as `readv` does, from an offset in bytes; the file's own position stays."""
    return _transfer(fd, buffers, offset, _AT)


def pwritev(fd: int | HasFileno, buffers: IoVec | Sequence[object], offset: int) -> int:
    """Write as `writev` does, from an offset in bytes; the file's own position stays."""
    return _transfer(fd, buffers, offset, _AT | _WRITE)


def _transfer(fd: int | HasFileno, buffers: IoVec | Sequence[object], offset: int, flags: int) -> int:
    number = fd if isinstance(fd, int) else fd.fileno()
    if isinstance(buffers, IoVec):
        pinned = buffers._begin_use()
        try:
            return _move(number, pinned, offset, flags)
        finally:
            buffers._end_use()
    pinned = Buffers(tuple(buffers))
    try:
        return _move(number, pinned, offset, flags)
    finally:
        pinned.release()


def _move(fd: int, pinned: Buffers, offset: int, flags: int) -> int:
    if pinned.is_read_only and not flags & _WRITE:
        raise BufferError(
            f"cannot read into buffer {pinned.first_read_only()} of {pinned.count}: it is read-only"
        )
    if not -(1 << 31) <= fd < 1 << 31:
        raise OSError(errno.EBADF, f"{os.strerror(errno.EBADF)}: {fd}")
    if not 0 <= offset < 1 << 63:
        raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: offset {offset}")
    done: int = lib.shm_transfer(fd, pinned.iov, pinned.count, offset, flags, 0)
    while (
        done == -errno.EINTR or done <= _INTERRUPTED
    ):  # a signal's handler has run, and not raised (PEP 475)
        done = 0 if done == -errno.EINTR else _INTERRUPTED - done
        done = lib.shm_transfer(fd, pinned.iov, pinned.count, offset, flags, done)
    if done < 0:
        what = "write" if flags & _WRITE else "read"
        raise OSError(-done, f"{os.strerror(-done)}, {what} of {pinned.count} buffers, descriptor {fd}")
    return done
