"""The kernel's part of a sealed put: the system calls that any sealed region needs, and no others."""

from __future__ import annotations

import fcntl
import os

F_ADD_SEALS = 1033
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1, 2, 4, 8
NOEXEC_SEAL = 8  # MFD_NOEXEC_SEAL, since Linux 6.3
HEADER_SIZE = 4096


def sealed(data: bytes) -> int:
    """Make a sealed region of `data` behind a header page; the caller closes the read-only descriptor."""
    size = len(data)
    descriptor = _memfd()
    try:
        os.ftruncate(descriptor, HEADER_SIZE + size)
        fcntl.fcntl(descriptor, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW)
        os.fchmod(descriptor, 0o600)
        offset = 0
        while offset < size:  # a pwrite moves at most 2 GiB
            offset += os.pwrite(descriptor, memoryview(data)[offset:], HEADER_SIZE + offset)
        fcntl.fcntl(descriptor, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SEAL)
        return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def put(data: bytes) -> None:
    """Make a sealed region, and free it: what replacing one costs the kernel."""
    os.close(sealed(data))


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("bench", flags | NOEXEC_SEAL)
    except OSError:
        return os.memfd_create("bench", flags)
