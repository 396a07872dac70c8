"""Numbers of the kernel that Python 3.11 has no name for, and units of size. Imports nothing.

C has them from its headers, and `shmclient.posix` from C, as the compiler found them.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4

SO_PEERGROUPS = 59  # asm-generic/socket.h, Linux 4.13
SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5
SO_PASSRIGHTS = 83  # asm-generic/socket.h, Linux 6.16
IOV_MAX = 1024  # UIO_MAXIOV of linux/uio.h: buffers in one readv(2) or writev(2)

MFD_NOEXEC_SEAL = 0x08  # linux/memfd.h, Linux 6.3
F_SEAL_FUTURE_WRITE = 0x10  # linux/fcntl.h, Linux 5.1
F_SEAL_EXEC = 0x20  # linux/fcntl.h, Linux 6.3
