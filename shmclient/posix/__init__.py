"""Shared memory objects and mappings at chosen addresses: the calls of the system.

The caller owns the descriptors that these functions return. Every failure is an OSError with its errno, the
values, and what to do; a wrong type is a TypeError. Names of the standard library are re-exported.
"""

from fcntl import fcntl
from os import fchmod, fchown, fstat
from resource import getpagesize
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISLNK, S_ISREG, S_ISSOCK

from shmclient.posix import constants
from shmclient.posix._errnos import errno_help, errno_name, errno_names, errno_string
from shmclient.posix._mappings import Mapping, mmap, munmap
from shmclient.posix._objects import close, ftruncate, memfd_create, shm_anonymous, shm_open, shm_unlink
from shmclient.posix._protection import madvise, mlock, mlockall, mprotect, msync, munlock, munlockall
from shmclient.posix._seals import add_seals, get_seals
from shmclient.posix.constants import *  # noqa: F403
from shmprotocol.kernel.status import Status, describe, permission_string

__all__ = [  # noqa: PLE0604
    *constants.__all__,
    "Mapping",
    "S_ISBLK",
    "S_ISCHR",
    "S_ISDIR",
    "S_ISFIFO",
    "S_ISLNK",
    "S_ISREG",
    "S_ISSOCK",
    "Status",
    "add_seals",
    "close",
    "describe",
    "errno_help",
    "errno_name",
    "errno_names",
    "errno_string",
    "fchmod",
    "fchown",
    "fcntl",
    "fstat",
    "ftruncate",
    "get_seals",
    "getpagesize",
    "madvise",
    "memfd_create",
    "mlock",
    "mlockall",
    "mmap",
    "mprotect",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "permission_string",
    "shm_anonymous",
    "shm_open",
    "shm_unlink",
]
