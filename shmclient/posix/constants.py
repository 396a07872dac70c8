"""The constants of these calls: what Python's standard library has, re-exported, and what it does not have.

The MS_* flags of mount(2), which the Go package exports by accident, are not included.
"""

from __future__ import annotations

from errno import (
    EAGAIN,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOENT,
    EPERM,
)
from fcntl import (
    F_ADD_SEALS,
    F_GET_SEALS,
    F_GETFD,
    F_GETFL,
    F_SETFD,
    F_SETFL,
    FD_CLOEXEC,
)
from mmap import (
    MADV_DODUMP,
    MADV_DOFORK,
    MADV_DONTDUMP,
    MADV_DONTFORK,
    MADV_DONTNEED,
    MADV_FREE,
    MADV_HUGEPAGE,
    MADV_MERGEABLE,
    MADV_NOHUGEPAGE,
    MADV_NORMAL,
    MADV_RANDOM,
    MADV_REMOVE,
    MADV_SEQUENTIAL,
    MADV_UNMERGEABLE,
    MADV_WILLNEED,
    MAP_ANON,
    MAP_ANONYMOUS,
    MAP_DENYWRITE,
    MAP_EXECUTABLE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MAP_STACK,
    PROT_EXEC,
    PROT_READ,
    PROT_WRITE,
)
from os import (
    MFD_ALLOW_SEALING,
    MFD_CLOEXEC,
    MFD_HUGE_1GB,
    MFD_HUGE_1MB,
    MFD_HUGE_2GB,
    MFD_HUGE_2MB,
    MFD_HUGE_8MB,
    MFD_HUGE_16GB,
    MFD_HUGE_16MB,
    MFD_HUGE_32MB,
    MFD_HUGE_64KB,
    MFD_HUGE_256MB,
    MFD_HUGE_512KB,
    MFD_HUGE_512MB,
    MFD_HUGE_MASK,
    MFD_HUGE_SHIFT,
    MFD_HUGETLB,
    O_ACCMODE,
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NOFOLLOW,
    O_RDONLY,
    O_RDWR,
    O_TRUNC,
    O_WRONLY,
)
from stat import (
    S_IEXEC,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFLNK,
    S_IFREG,
    S_IFSOCK,
    S_IREAD,
    S_IRGRP,
    S_IROTH,
    S_IRUSR,
    S_IRWXG,
    S_IRWXO,
    S_IRWXU,
    S_ISGID,
    S_ISUID,
    S_ISVTX,
    S_IWGRP,
    S_IWOTH,
    S_IWRITE,
    S_IWUSR,
    S_IXGRP,
    S_IXOTH,
    S_IXUSR,
)

from shmclient.posix._emulation import (
    F_SEAL_EXEC,
    F_SEAL_FUTURE_WRITE,
    F_SEAL_GROW,
    F_SEAL_SEAL,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
)
from shmclient.posix._objects import NAME_MAX
from shmprotocol.kernel.status import FP_SPECIAL
from shmprotocol.native.binding import lib

MADV_HWPOISON: int = lib.MADV_HWPOISON
MADV_POPULATE_READ: int = lib.MADV_POPULATE_READ
MADV_POPULATE_WRITE: int = lib.MADV_POPULATE_WRITE
MAP_32BIT: int = lib.MAP_32BIT
MAP_FILE: int = lib.MAP_FILE
MAP_FIXED: int = lib.MAP_FIXED
MAP_FIXED_NOREPLACE: int = lib.MAP_FIXED_NOREPLACE
MAP_GROWSDOWN: int = lib.MAP_GROWSDOWN
MAP_HUGETLB: int = lib.MAP_HUGETLB
MAP_LOCKED: int = lib.MAP_LOCKED
MAP_NONBLOCK: int = lib.MAP_NONBLOCK
MAP_NORESERVE: int = lib.MAP_NORESERVE
MAP_SHARED_VALIDATE: int = lib.MAP_SHARED_VALIDATE
MAP_SYNC: int = lib.MAP_SYNC
MAP_TYPE: int = lib.MAP_TYPE
MCL_CURRENT: int = lib.MCL_CURRENT
MCL_FUTURE: int = lib.MCL_FUTURE
MCL_ONFAULT: int = lib.MCL_ONFAULT
MFD_EXEC: int = lib.MFD_EXEC
MFD_NOEXEC_SEAL: int = lib.MFD_NOEXEC_SEAL
MREMAP_DONTUNMAP: int = lib.MREMAP_DONTUNMAP
MREMAP_FIXED: int = lib.MREMAP_FIXED
MREMAP_MAYMOVE: int = lib.MREMAP_MAYMOVE
MS_ASYNC: int = lib.MS_ASYNC
MS_INVALIDATE: int = lib.MS_INVALIDATE
MS_SYNC: int = lib.MS_SYNC
PROT_NONE: int = lib.PROT_NONE
SO_PEERPIDFD: int = lib.SO_PEERPIDFD
PROT_RDWR = PROT_READ | PROT_WRITE
S_IFMT = 0o170000  # the mask of the file type; `stat` has a function of this name

__all__ = [
    "EAGAIN",
    "EBUSY",
    "EFAULT",
    "EINVAL",
    "ENOENT",
    "EPERM",
    "FD_CLOEXEC",
    "FP_SPECIAL",
    "F_ADD_SEALS",
    "F_GETFD",
    "F_GETFL",
    "F_GET_SEALS",
    "F_SEAL_EXEC",
    "F_SEAL_FUTURE_WRITE",
    "F_SEAL_GROW",
    "F_SEAL_SEAL",
    "F_SEAL_SHRINK",
    "F_SEAL_WRITE",
    "F_SETFD",
    "F_SETFL",
    "MADV_DODUMP",
    "MADV_DOFORK",
    "MADV_DONTDUMP",
    "MADV_DONTFORK",
    "MADV_DONTNEED",
    "MADV_FREE",
    "MADV_HUGEPAGE",
    "MADV_HWPOISON",
    "MADV_MERGEABLE",
    "MADV_NOHUGEPAGE",
    "MADV_NORMAL",
    "MADV_POPULATE_READ",
    "MADV_POPULATE_WRITE",
    "MADV_RANDOM",
    "MADV_REMOVE",
    "MADV_SEQUENTIAL",
    "MADV_UNMERGEABLE",
    "MADV_WILLNEED",
    "MAP_32BIT",
    "MAP_ANON",
    "MAP_ANONYMOUS",
    "MAP_DENYWRITE",
    "MAP_EXECUTABLE",
    "MAP_FILE",
    "MAP_FIXED",
    "MAP_FIXED_NOREPLACE",
    "MAP_GROWSDOWN",
    "MAP_HUGETLB",
    "MAP_LOCKED",
    "MAP_NONBLOCK",
    "MAP_NORESERVE",
    "MAP_POPULATE",
    "MAP_PRIVATE",
    "MAP_SHARED",
    "MAP_SHARED_VALIDATE",
    "MAP_STACK",
    "MAP_SYNC",
    "MAP_TYPE",
    "MCL_CURRENT",
    "MCL_FUTURE",
    "MCL_ONFAULT",
    "MFD_ALLOW_SEALING",
    "MFD_CLOEXEC",
    "MFD_EXEC",
    "MFD_HUGETLB",
    "MFD_HUGE_16GB",
    "MFD_HUGE_16MB",
    "MFD_HUGE_1GB",
    "MFD_HUGE_1MB",
    "MFD_HUGE_256MB",
    "MFD_HUGE_2GB",
    "MFD_HUGE_2MB",
    "MFD_HUGE_32MB",
    "MFD_HUGE_512KB",
    "MFD_HUGE_512MB",
    "MFD_HUGE_64KB",
    "MFD_HUGE_8MB",
    "MFD_HUGE_MASK",
    "MFD_HUGE_SHIFT",
    "MFD_NOEXEC_SEAL",
    "MREMAP_DONTUNMAP",
    "MREMAP_FIXED",
    "MREMAP_MAYMOVE",
    "MS_ASYNC",
    "MS_INVALIDATE",
    "MS_SYNC",
    "NAME_MAX",
    "O_ACCMODE",
    "O_CLOEXEC",
    "O_CREAT",
    "O_EXCL",
    "O_NOFOLLOW",
    "O_RDONLY",
    "O_RDWR",
    "O_TRUNC",
    "O_WRONLY",
    "PROT_EXEC",
    "PROT_NONE",
    "PROT_RDWR",
    "PROT_READ",
    "PROT_WRITE",
    "SO_PEERPIDFD",
    "S_IEXEC",
    "S_IFBLK",
    "S_IFCHR",
    "S_IFDIR",
    "S_IFIFO",
    "S_IFLNK",
    "S_IFMT",
    "S_IFREG",
    "S_IFSOCK",
    "S_IREAD",
    "S_IRGRP",
    "S_IROTH",
    "S_IRUSR",
    "S_IRWXG",
    "S_IRWXO",
    "S_IRWXU",
    "S_ISGID",
    "S_ISUID",
    "S_ISVTX",
    "S_IWGRP",
    "S_IWOTH",
    "S_IWRITE",
    "S_IWUSR",
    "S_IXGRP",
    "S_IXOTH",
    "S_IXUSR",
]
