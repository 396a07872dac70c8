"""The kernel's data about an open descriptor, for people and for JSON. Knows no region, header or host."""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from shmprotocol.kernel.constants import F_SEAL_EXEC, F_SEAL_FUTURE_WRITE

FP_SPECIAL = 1  # the flag of `permission_string` that shows setuid, setgid and sticky

_TYPE_BITS = 0o170000  # S_IFMT of inode(7); the stat module has it only as a function
_TYPES: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISREG, "regular file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISLNK, "symbolic link"),
    (stat.S_ISSOCK, "socket"),
)
# include/uapi/linux/fcntl.h. The fcntl module of Python 3.11 has only the first four.
_SEALS = {
    "SEAL": 0x1,
    "SHRINK": 0x2,
    "GROW": 0x4,
    "WRITE": 0x8,
    "FUTURE_WRITE": F_SEAL_FUTURE_WRITE,
    "EXEC": F_SEAL_EXEC,
}
_ACCESS = {os.O_RDONLY: "read-only", os.O_WRONLY: "write-only", os.O_RDWR: "read-write"}
_BLOCK = 512  # bytes: the unit of st_blocks on Linux and macOS, for every file system


@dataclass(frozen=True, slots=True)
class Status:
    """The result of `describe`; `str()` gives aligned lines.

    `type` is "other" for an object without a file type, such as an eventfd. `device` is major and minor.
    `mode` holds the lower twelve bits, `permissions` the same as text. `owner` and `group` are None where
    the system has no name for the id. `size` and `block_size` are bytes, `blocks` units of 512 bytes.
    `seals` is None where the kernel has none for this kind of file, and a seal without a name is its
    number in hex. `access` is "read-only", "write-only", "read-write", or "none" for a descriptor that
    only names a file (O_PATH).
    """

    type: str
    device: tuple[int, int]
    inode: int
    mode: int
    permissions: str
    links: int
    uid: int
    gid: int
    owner: str | None
    group: str | None
    size: int
    blocks: int
    block_size: int
    seals: tuple[str, ...] | None
    access: str

    def as_dict(self) -> dict[str, object]:
        """Return the fields as JSON values: tuples become lists."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    def __str__(self) -> str:
        rows = {
            "type": self.type,
            "device": "{}:{}".format(*self.device),
            "inode": self.inode,
            "permissions": self.permissions,
            "access": self.access,
            "links": self.links,
            "owner": f"{self.owner or '?'} (uid {self.uid})",
            "group": f"{self.group or '?'} (gid {self.gid})",
            "size": f"{self.size} bytes",
            "blocks": f"{self.blocks} of {_BLOCK} bytes",
            "block size": f"{self.block_size} bytes",
            "seals": "not supported" if self.seals is None else ", ".join(self.seals) or "none",
        }
        width = max(map(len, rows))
        return "\n".join(f"{key:{width}}  {value}" for key, value in rows.items())


def describe(fd: int) -> Status:
    """Return the kernel's data about an open descriptor. The caller still owns it.

    OSError with errno EBADF if it is not open.
    """
    try:
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    except (OSError, OverflowError) as error:  # OverflowError: a number that no C int holds
        if isinstance(error, OSError) and error.errno != errno.EBADF:
            raise
        raise OSError(errno.EBADF, f"descriptor {fd} is not open: pass the number of an open one") from None
    mode = stat.S_IMODE(status.st_mode)
    return Status(
        type=next((name for is_type, name in _TYPES if is_type(status.st_mode)), "other"),
        device=(os.major(status.st_dev), os.minor(status.st_dev)),
        inode=status.st_ino,
        mode=mode,
        permissions=permission_string(mode, FP_SPECIAL),
        links=status.st_nlink,
        uid=status.st_uid,
        gid=status.st_gid,
        owner=user_name(status.st_uid),
        group=group_name(status.st_gid),
        size=status.st_size,
        blocks=status.st_blocks,
        block_size=status.st_blksize,
        seals=_seals(fd),
        access=_access(flags),
    )


def permission_string(mode: int, flags: int = 0) -> str:
    """Return permission bits as octal digits and letters: "[0644] rw-r--r--".

    With FP_SPECIAL setuid, setgid and sticky are shown as `ls` does, "[4755] rwsr-xr-x"; without it they
    are omitted. The type bits of `st_mode` are ignored. ValueError for other flags or bits.
    """
    if flags & ~FP_SPECIAL:
        raise ValueError(f"flags {flags:#x} are unknown: pass 0 or FP_SPECIAL ({FP_SPECIAL})")
    if mode & ~(0o7777 | _TYPE_BITS):
        raise ValueError(f"mode {mode:#o} is outside of 0 to 0o7777: pass permission bits or an st_mode")
    bits = mode & (0o7777 if flags else 0o777)
    return f"[{bits:04o}] {stat.filemode(bits)[1:]}"


def user_name(uid: int) -> str | None:
    """Return the name of a user; None if there is none for this number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def group_name(gid: int) -> str | None:
    """Return the name of a group; None if there is none for this number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None


def _access(flags: int) -> str:
    if sys.platform == "linux" and flags & os.O_PATH:
        return "none"
    return _ACCESS.get(flags & os.O_ACCMODE, "none")  # 3 allows only ioctl, open(2)


def _seals(fd: int) -> tuple[str, ...] | None:
    if sys.platform != "linux":
        return None
    try:
        return _seal_names(fcntl.fcntl(fd, fcntl.F_GET_SEALS))
    except OSError:  # EINVAL where the file has no seals, EBADF for O_PATH
        return None


def _seal_names(bits: int) -> tuple[str, ...]:
    names = tuple(name for name, bit in _SEALS.items() if bits & bit)
    unnamed = bits & ~sum(_SEALS.values())
    return (*names, f"{unnamed:#x}") if unnamed else names
