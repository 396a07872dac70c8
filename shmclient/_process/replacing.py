"""Files that are replaced whole: written beside their place, and renamed when all is on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

from shmprotocol.errors import InvalidArgument

# open(2): the kernel, or the file system, has no O_TMPFILE.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


@contextlib.contextmanager
def replacing(path: str, mode: int | None = None) -> Iterator[int]:
    """Yield a new file, which has the path when the block ends, and its bytes are on the disk.

    After an error the path is as before. The permission bits are `mode`; None: what the umask leaves.
    InvalidArgument: a folder is there, or a link, which is not followed: it may be another user's.
    """
    folder, name = os.path.split(path)
    parent = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_target(path, name, parent)
        temporary = f".{secrets.token_hex(16)}.tmp"  # the name itself may be as long as names can be
        descriptor, is_named = _new_file(parent, temporary, 0o666 if mode is None else 0o600)
        try:
            yield descriptor
            if mode is not None:
                os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            if not is_named:
                os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=parent, follow_symlinks=True)
                is_named = True
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            if is_named:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
            raise
        finally:
            os.close(descriptor)
        os.fsync(parent)
    finally:
        os.close(parent)


def _check_target(path: str, name: str, parent: int) -> None:
    if name in ("", ".", ".."):
        raise InvalidArgument(f"{path!r:.200} is a folder: name a file")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise InvalidArgument(
                f"{path!r:.200} is a link, a folder or a device, which is not replaced: name a file"
            )


def _new_file(parent: int, temporary: str, mode: int) -> tuple[int, bool]:
    """Return a new file, and whether it has a name: without, it goes with a process that is killed."""
    flags = os.O_RDWR | os.O_CLOEXEC
    if os.path.exists("/proc/self/fd"):
        try:
            return os.open(".", flags | os.O_TMPFILE, mode, dir_fd=parent), False
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
    return os.open(temporary, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode, dir_fd=parent), True
