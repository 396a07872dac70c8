"""Objects whose lock a process holds as long as it likes, as any that may write to one can."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import close_all
from support import RawPeer, read_tasks

SYS_USERFAULTFD = 323  # asm/unistd_64.h
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04  # linux/userfaultfd.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextmanager
def blocked_write(descriptor: int) -> Iterator[None]:
    """Hold the lock of an object: a write whose buffer has no pages, and nobody to bring them."""
    fault = _LIBC.syscall(SYS_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
    if fault < 0:
        pytest.skip(f"no userfaultfd: {os.strerror(ctypes.get_errno())}")
    buffer = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = (ctypes.c_char * mmap.PAGESIZE).from_buffer(buffer)
    where = ctypes.addressof(view)
    fcntl.ioctl(fault, UFFDIO_API, struct.pack("3Q", 0xAA, 0, 0))
    fcntl.ioctl(fault, UFFDIO_REGISTER, struct.pack("4Q", where, mmap.PAGESIZE, 1, 0))
    thread = threading.Thread(
        target=_LIBC.pwrite, args=(descriptor, ctypes.c_void_p(where), 8, ctypes.c_long(mmap.PAGESIZE))
    )
    thread.start()
    select.select([fault], [], [], 20)  # the fault is there: the lock is held
    try:
        yield
    finally:
        fcntl.ioctl(fault, UFFDIO_ZEROPAGE, struct.pack("3Qq", where, mmap.PAGESIZE, 0, 0))
        thread.join()
        os.close(fault)
        del view
        buffer.close()


def is_held_up(pid: int) -> bool:
    """Whether a thread of a process waits for the lock of an object, or is ended as it does."""
    return any("(shm apart) D" in text for text in read_tasks(pid, "stat"))


def spare_of(peer: RawPeer, name: str, size: int) -> tuple[int, int]:
    """Return a spare of a connection, and its read-write descriptor."""
    created, fds = peer.ask(m.Create(1, name, size, "full", "memfd", 0o600, True))
    assert isinstance(created, m.Created)
    close_all(fds)
    published, (reader, spare) = peer.ask(m.Publish(2, created.region, 1, size, 0, 0, 0, 0, (size,)))
    assert isinstance(published, m.Published)
    os.close(reader)
    return published.spares[0].region, spare
