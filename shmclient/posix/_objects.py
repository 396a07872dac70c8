"""Shared memory objects: memfd and shm_open, also where there is no memfd; their size and their end."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import sys

from shmclient.posix import _seals
from shmclient.posix._emulation import F_SEAL_EXEC, F_SEAL_SEAL
from shmclient.posix._errors import check_descriptor, check_flags, check_result, check_size, failure
from shmprotocol.native.binding import lib

NAME_MAX = 31 if sys.platform == "darwin" else lib.NAME_MAX
MFD_CLOEXEC = getattr(os, "MFD_CLOEXEC", 0x1)
MFD_ALLOW_SEALING = getattr(os, "MFD_ALLOW_SEALING", 0x2)
MFD_NOEXEC_SEAL = lib.MFD_NOEXEC_SEAL
MFD_EXEC = lib.MFD_EXEC
_HUGE, _HUGE_SIZES = getattr(os, "MFD_HUGETLB", 0x4), 0x3F << 26  # include/uapi/linux/memfd.h
_KNOWN_FLAGS = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC | _HUGE | _HUGE_SIZES
_numbers = itertools.count()


def shm_open(name: str | bytes, flags: int, mode: int = 0o600) -> int:
    """Open or create a named object; return a close-on-exec descriptor, which the caller owns.

    `flags`: O_RDONLY or O_RDWR, with O_CREAT, O_EXCL, O_TRUNC; O_NOFOLLOW and O_CLOEXEC are added. Leading
    slashes of the name do not count; EINVAL: it is empty, too long (255 bytes; 31 on macOS), or has another
    slash. FileExistsError, FileNotFoundError, PermissionError as for a file. See shm_open(3).
    """
    short = _object_name(name)
    check_flags(flags, "flags")
    check_flags(mode, "mode bits")
    return check_result(lib.shm_object_open(short, flags | os.O_CLOEXEC, mode), f"shm_open of {name!r}")


def shm_unlink(name: str | bytes) -> None:
    """Remove a name; the memory is freed with the last descriptor and mapping. Errors as for `shm_open`."""
    check_result(lib.shm_object_unlink(_object_name(name)), f"shm_unlink of {name!r}")


def shm_anonymous(*, inheritable: bool = True) -> int:
    """Create an object without a name, by a random one that is unlinked at once; return its descriptor.

    A program that this one starts inherits it when it is told to keep it open (`pass_fds`), unless
    `inheritable` is False.
    """
    fd = _create_unlinked("shm")
    os.set_inheritable(fd, inheritable)
    return fd


def memfd_create(
    name: str | bytes, flags: int = MFD_CLOEXEC | MFD_ALLOW_SEALING, *, backend: str | None = None
) -> int:
    """Create an anonymous object, sealable unless `flags` say otherwise; return its descriptor, the caller's.

    Without MFD_CLOEXEC programs inherit it by exec. `backend`: "memfd", memfd_create(2); or "shm", for
    systems without it: a named object that is unlinked at once, whose seals are kept by this process and bind
    only the calls of this package (no huge pages this way). None takes the first that the system has.
    EINVAL: an unknown flag or too long a name; EFAULT: an empty one, with "shm".
    """
    check_flags(flags, "flags")
    if backend not in (None, "memfd", "shm"):
        raise ValueError(f"the backend is 'memfd' or 'shm', not {backend!r}")
    if backend == "shm" or (backend is None and not hasattr(os, "memfd_create")):
        return _emulate_memfd(os.fsencode(name), flags)
    if not hasattr(os, "memfd_create"):
        raise failure(errno.ENOSYS, f"memfd_create of {name!r}")
    try:
        return os.memfd_create(os.fsdecode(_no_null(name)), flags)
    except OSError as error:
        raise failure(error.errno or 0, f"memfd_create of {name!r} with flags {flags:#x}") from None


def ftruncate(fd: int, length: int) -> None:
    """Set the size of an object, in bytes, as `os.ftruncate` does; new bytes are zero.

    PermissionError (EPERM): it is sealed against that; its present size is always allowed.
    """
    check_descriptor(fd)
    check_size(length, "length")
    _seals.check_resize(fd, length)
    try:
        os.ftruncate(fd, length)
    except OSError as error:
        raise failure(error.errno or 0, f"ftruncate of descriptor {fd} to {length} bytes") from None


def close(fd: int) -> None:
    """Close a descriptor; EBADF if it is not open, such as the second time."""
    check_descriptor(fd)
    _seals.forget(fd)
    try:
        os.close(fd)
    except OSError as error:
        raise failure(error.errno or 0, f"close of descriptor {fd}") from None


def _emulate_memfd(name: bytes, flags: int) -> int:
    sizes_without_huge_pages = flags & _HUGE_SIZES and not flags & _HUGE
    if flags & ~_KNOWN_FLAGS or sizes_without_huge_pages or (flags & MFD_EXEC and flags & MFD_NOEXEC_SEAL):
        raise failure(errno.EINVAL, f"memfd_create with flags {flags:#x}")
    if not name:
        raise failure(errno.EFAULT, "memfd_create with an empty name")
    if len(_no_null(name)) > lib.NAME_MAX - 10:
        raise failure(errno.EINVAL, f"memfd_create: the name has {len(name)} bytes, over {lib.NAME_MAX - 10}")
    fd = _create_unlinked("memfd")
    seals = 0 if flags & (MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL) else F_SEAL_SEAL
    _seals.emulate(fd, seals | (F_SEAL_EXEC if flags & MFD_NOEXEC_SEAL else 0))
    os.set_inheritable(fd, not flags & MFD_CLOEXEC)
    return fd


def _create_unlinked(kind: str) -> int:
    """Create an object under a unique name, and unlink it; return its descriptor."""
    while True:
        # 16 hex digits and a counter: no two threads, and no two processes, mean the same; within macOS's 31.
        name = f"{kind}-{secrets.token_hex(8)}{next(_numbers) % 1000:03d}"
        try:
            fd = shm_open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            continue
        shm_unlink(name)
        return fd


def _object_name(name: str | bytes) -> bytes:
    short = os.fsencode(name).lstrip(b"/")
    if not short or len(short) >= NAME_MAX or b"/" in short or short in (b".", b".."):
        raise failure(
            errno.EINVAL,
            f"the name {name!r}: it has 1 to {NAME_MAX - 1} bytes after its slashes, and no other slash",
        )
    return b"/" + _no_null(short)


def _no_null(name: str | bytes) -> bytes:
    encoded = os.fsencode(name)
    if b"\0" in encoded:
        raise failure(errno.EINVAL, f"the name {name!r} has a zero byte")
    return encoded
