"""The names of one host in /dev/shm, where every user can have any name. Knows no region.

They begin with what identifies the host, so that two hosts have no name in common. A host takes only names
that are free, replaces only files that it put there itself, and removes what an earlier one left, which was
killed. That is found by its prefix, and so are the names of a host by other programs.

Anybody can hold the lock of the folder, and a creator that of its file: threads apart change names, see
`core.apart`. A listing of the folder waits, too, but in a way that ends with the process. The look-up of a
name that is there waits for nobody; that of one that is not there does, so nobody looks up what has none.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from shmhost.core.objects import SHM_FOLDER
from shmprotocol.errors import InvalidArgument, RegionExists
from shmprotocol.native import builtins

LOG = logging.getLogger("shmhost")

MAX_FILE_NAME = 255  # bytes
SWEEP_S = 1.0  # removing takes microseconds, and so long a start is none that anybody minds
_MAKE, _LINK, _RENAME, _UNLINK = range(4)  # see `builtins.change_name`
_NEW = "-new"  # between the prefix and a random part, until the object is published


class ShmNames:
    """The names with one prefix, and which files this host gave them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._files: dict[Path, tuple[int, int]] = {}  # device and inode; changed by threads, one for a path

    def path_of(self, name: str) -> Path:
        """Return the file of a region's name. InvalidArgument: it is too long."""
        path = SHM_FOLDER / f"{self._prefix}.{quote(name, safe='')}"
        if len(path.name.encode()) > MAX_FILE_NAME:
            raise InvalidArgument(f"{name[:40]!r}... is too long for the shm backend: {path.name}")
        return path

    def new_path(self) -> Path:
        """Return a name that nobody can guess."""
        return SHM_FOLDER / f"{self._prefix}{_NEW}.{secrets.token_hex(8)}"

    def make(self, path: Path) -> int:
        """Return a read-write descriptor of a new file. OSError: none is left."""
        _change(_MAKE, path)
        try:
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            _unlink(path)
            raise

    def give(self, path: Path, descriptor: int, final: Path) -> None:
        """Give an object its final name, if that is free or an older object's of this host. OSError.

        RegionExists: the name is somebody else's.
        """
        identity = _identity(os.fstat(descriptor))
        if self._files.get(final) != identity:  # unless only the last step failed before
            if self._is_own(final):
                _change(_RENAME, path, final)
            else:
                _link(path, final)
            self._files[final] = identity
        with contextlib.suppress(FileNotFoundError):
            _unlink(path)

    def remove(self, path: Path, descriptor: int) -> None:
        """Remove a name, if it is this object's. OSError."""
        status = os.fstat(descriptor)
        if self._files.get(path) == _identity(status):
            del self._files[path]
        with contextlib.suppress(FileNotFoundError):
            if _has_name(status, path):
                _unlink(path)

    def adopt(self, path: Path, descriptor: int) -> None:
        """Take note of an object of an earlier host that has its name still, if it has that."""
        status = os.fstat(descriptor)
        with contextlib.suppress(FileNotFoundError):
            if _has_name(status, path):
                self._files[path] = _identity(status)

    def sweep(self, is_expected: Callable[[str, int, int], bool]) -> None:
        """Remove what an earlier host of this prefix left; what may come back is taken for this one's.

        `is_expected` gets a name, and the device and inode of its object: one that was given its name just
        before the host was killed was never published. Waits for `SWEEP_S` at most.
        """
        is_over = threading.Event()
        thread = threading.Thread(target=self._sweep, args=(is_expected, is_over), daemon=True)
        thread.start()
        thread.join(SWEEP_S)
        is_over.set()
        if thread.is_alive():
            LOG.warning("the lock of %s is held: what an earlier host left there stays for now", SHM_FOLDER)

    def _sweep(self, is_expected: Callable[[str, int, int], bool], is_over: threading.Event) -> None:
        count = 0
        with contextlib.suppress(FileNotFoundError), os.scandir(SHM_FOLDER) as entries:
            for entry in entries:
                prefix, _, name = entry.name.partition(".")
                if prefix not in (self._prefix, f"{self._prefix}{_NEW}") or not _is_of_this_user(entry):
                    continue
                identity = _identity(entry.stat(follow_symlinks=False))
                if is_over.is_set():  # the host serves, and makes files that are its own
                    return
                if prefix == self._prefix and is_expected(unquote(name), *identity):
                    self._files[SHM_FOLDER / entry.name] = identity
                else:
                    count += _is_removed(entry)
        if count:
            LOG.info("removed %d objects in %s that an earlier host left", count, SHM_FOLDER)

    def _is_own(self, path: Path) -> bool:
        try:
            return path in self._files and _identity(path.lstat()) == self._files[path]
        except FileNotFoundError:
            return False


def _is_of_this_user(entry: os.DirEntry[str]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _is_removed(entry: os.DirEntry[str]) -> bool:
    try:
        _unlink(Path(entry.path))
    except OSError as error:
        LOG.warning("cannot remove %s: %s", entry.path, error.strerror)
        return False
    return True


def _change(call: int, path: Path, final: Path | None = None) -> None:
    """Make a call on a name. OSError."""
    error = builtins.change_name(call, os.fsencode(path), os.fsencode(final or b""))
    if error:
        raise OSError(error, os.strerror(error), str(path))


def _unlink(path: Path) -> None:
    """Remove a name; here, if no thread can be started: nobody is charged for a file that stays. OSError."""
    try:
        _change(_UNLINK, path)
    except OSError as error:
        if error.errno != errno.EAGAIN:
            raise
        path.unlink()


def _link(path: Path, final: Path) -> None:
    try:
        _change(_LINK, path, final)
    except FileExistsError:
        raise _taken(final) from None


def _has_name(status: os.stat_result, path: Path) -> bool:
    """Whether a name is that of the object with this status. FileNotFoundError."""
    return status.st_nlink > 0 and _identity(path.lstat()) == _identity(status)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _taken(path: Path) -> RegionExists:
    try:
        owner = f"uid {path.lstat().st_uid}"
    except OSError:
        owner = "somebody"
    return RegionExists(
        f"{path} exists, and this host did not make it but {owner}: remove it, or choose another name or the "
        "memfd backend"
    )
