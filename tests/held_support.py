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
