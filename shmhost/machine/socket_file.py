"""A listening Unix socket and its file: created at a free path, held by a lock, removed at the end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import socket
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from shmprotocol.errors import HostError
from shmprotocol.native import builtins
from shmprotocol.wire.names import MAX_GENERATION

LOG = logging.getLogger("shmhost")

_STREAM = int(socket.SOCK_STREAM) | int(socket.SOCK_NONBLOCK)  # the second says that it never waits already

BACKLOG = 1024
_DIGITS = 20  # of the count in a lock's file, which is overwritten in place
_RECORD = 30  # bytes: a ceiling of generations in decimal, its CRC-32 in hexadecimal, and the end of the line


class Lock:
    """The lock beside a socket, `PATH.lock`. It dies with its process, however that ends; the file stays.

    In the file is how often a host has started here; then the ceiling of generations (see `generations`), in
    two records with a checksum of which the larger counts. The smaller one is overwritten, so that a torn
    write leaves the ceiling that was in force. A file that begins with anything else is left as it is, and so
    is one that another user owns or may write: a socket can lie in a folder that all may write, and a forged
    ceiling would use up the generations.

    Writes are small and not synced: a folder for sockets lies in memory (tmpfs), and on a disk the writes
    are as safe, because what they are kept for (clients that compare generations) does not outlive a reboot.
    """

    def __init__(self, path: str, cure: str) -> None:
        self._path = path
        self._cure = cure
        self._descriptor = -1  # -1: not held
        self._is_shared = False  # with another host, whose lock it is
        self.starts: int = 0  # before this one
        self.ceiling: int | None = 0  # the last stored one; None: the stored one cannot be used
        self._records = [0, 0]

    @property
    def is_held(self) -> bool:
        """Whether this process has the lock."""
        return self._descriptor >= 0

    def take(self) -> None:
        """Take the lock. HostError: another host has it, or the file is not that of a host of this user."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(f"{self._path}.lock", flags, 0o600)
        self._check_owner(os.fstat(self._descriptor))
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"another host serves {self._path}: use that one, end it, or {self._cure}"
            ) from None
        self._read()

    def identity(self) -> str:
        """Return what tells this host from others on this machine, and is the same after a restart."""
        if self._descriptor < 0:
            return secrets.token_hex(8)  # no lock: nothing is the same then
        status = os.fstat(self._descriptor)
        return f"{status.st_dev:x}-{status.st_ino:x}"

    def fileno(self) -> int:
        """Return the descriptor, which stays the lock's; -1: it is not held."""
        return self._descriptor

    def share(self, descriptor: int) -> None:
        """Hold the lock of another host by a descriptor of its open file, until `own`; -1: that has none."""
        self._descriptor, self._is_shared = descriptor, True
        if descriptor >= 0:
            self._read()

    def own(self) -> None:
        """Be the one that releases it: the other host is gone."""
        self._is_shared = False

    def count(self) -> None:
        """Note that a host has started, if the lock is held. OSError: there is no space for it."""
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, b"%*d\n" % (_DIGITS, self.starts + 1), 0)

    def store_ceiling(self, ceiling: int) -> None:
        """Store a ceiling of generations. OSError: there is no lock, or no space."""
        if self._descriptor < 0:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        index = self._records.index(min(self._records))
        offset = _DIGITS + 1 + index * _RECORD
        if os.pwrite(self._descriptor, _record(ceiling), offset) != _RECORD:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._records[index] = ceiling

    def _check_owner(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise self._refusal(f"is not a file ({stat.filemode(status.st_mode)}): move it away")
        if status.st_uid != os.geteuid():
            raise self._refusal(f"belongs to uid {status.st_uid}, not to uid {os.geteuid()}: remove it")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mode = stat.S_IMODE(status.st_mode)
            raise self._refusal(f"can be written by others (mode {mode:04o}): chmod go-w it")

    def _refusal(self, why: str) -> HostError:
        return HostError(f"{self._path}.lock {why}, or {self._cure}")

    def _read(self) -> None:
        text = os.pread(self._descriptor, _DIGITS + 1, 0).strip(b" \n\0")
        if not re.fullmatch(rb"\d{0,19}", text):
            raise self._refusal("is not a host's lock file: move it away")
        self.starts = int(text or b"0")
        self._read_ceiling(os.pread(self._descriptor, 2 * _RECORD + 1, _DIGITS + 1))

    def _read_ceiling(self, data: bytes) -> None:
        records = [_read_record(data[:_RECORD]), _read_record(data[_RECORD : 2 * _RECORD])]
        self._records = [record or 0 for record in records]
        sound = [record for record in records if record is not None]
        ceiling = max(sound) if sound else None if data else 0
        self.ceiling = None if ceiling is not None and ceiling > MAX_GENERATION else ceiling
        if self.ceiling != ceiling:
            raise self._refusal(
                f"has generation {ceiling}, which no host stored (it is over {MAX_GENERATION}): remove it, "
                "and generations start at 1"
            )

    def release(self) -> None:
        """Release the lock. May be called again."""
        if self._descriptor >= 0:
            if not self._is_shared:
                fcntl.flock(
                    self._descriptor, fcntl.LOCK_UN
                )  # a forked child may have a copy of the descriptor
            os.close(self._descriptor)
            self._descriptor = -1


def _record(ceiling: int) -> bytes:
    digits = b"%*d" % (_DIGITS, ceiling)
    return b"%b %08x\n" % (digits, zlib.crc32(digits))


def _read_record(data: bytes) -> int | None:
    text = data[:_DIGITS].strip()
    return int(text) if text.isdigit() and data == _record(int(text)) else None


class SocketFile:
    """The listening socket and its file. A context manager that gives the socket.

    A socket file whose lock is free, and that nobody has open, is stale, whatever killed its host; nothing
    else is ever removed, nor what takes its place while it is served.
    HostError if the socket cannot be created; its message recommends `cure`.
    """

    def __init__(self, path: str, mode: int, cure: str) -> None:
        self._path = Path(path)
        self._mode = mode
        self._cure = cure
        self._listener: socket.socket | None = None
        self._is_shared = False
        self._status: os.stat_result | None = None  # of the file
        self.lock: Lock = Lock(path, cure)

    def share(self, listener: socket.socket, lock: int) -> None:
        """Be given the socket of another host, by a descriptor of its own, before the block; until `own`."""
        self._listener, self._is_shared = listener, True
        with contextlib.suppress(OSError):
            self._status = self._path.lstat()
        self.lock.share(lock)

    def own(self) -> None:
        """Be the one that removes the file: the other host is gone."""
        self._is_shared = False
        self.lock.own()

    def __enter__(self) -> socket.socket:
        if self._listener is not None:
            return self._listener
        try:
            self._make_folders()
            self.lock.take()
            self._remove_stale()
            return self._listen()
        except OSError as error:
            self._release()
            why = error.strerror or error
            raise HostError(f"cannot listen on {self._path}: {why}; {self._cure}") from error
        except BaseException:
            self._release()
            raise

    def __exit__(self, *_: object) -> None:
        if not self._is_shared:
            self._remove()
        self._release()

    def _make_folders(self) -> None:
        # Not by mkdir(parents=True), which gives its mode to the last one alone, and the umask may be 0.
        for folder in reversed(self._path.parents):
            if not folder.is_dir():
                folder.mkdir(mode=0o755)

    def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise HostError(f"{self._path} exists and is not a socket ({stat.filemode(mode)}): move it away")
        if _is_open(str(self._path)):
            raise HostError(f"another program has the socket {self._path}: end it, or {self._cure}")
        LOG.info("removed the stale socket %s", self._path)
        self._path.unlink()

    def _listen(self) -> socket.socket:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        # The file is made with the mode of the socket, less the umask: there is no moment with another one.
        os.fchmod(self._listener.fileno(), self._mode)
        self._listener.bind(str(self._path))
        self._set_mode()
        self._listener.listen(BACKLOG)
        return self._listener

    def _set_mode(self) -> None:
        """Give the file its mode, whatever the umask; not what another user has put in its place."""
        descriptor = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
                raise HostError(f"{self._path} was replaced as soon as it was made: {self._cure}")
            if stat.S_IMODE(status.st_mode) != self._mode:
                os.chmod(f"/proc/self/fd/{descriptor}", self._mode)
            self._status = status
        finally:
            os.close(descriptor)

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self._status is not None and os.path.samestat(self._path.lstat(), self._status):
                self._path.unlink()

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self.lock.release()


def _is_open(path: str) -> bool:
    """Whether any program has a Unix socket open under a path: if not, a connection is refused."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except OSError as error:
            return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
    return True


@contextlib.contextmanager
def inherited(listener: socket.socket, socket_file: SocketFile) -> Iterator[socket.socket]:
    """Yield an inherited listener, with the lock of its path if that is available; close both at the end.

    A host that is started by hand at the same path is then refused.
    """
    with listener:
        try:
            if socket_file.lock.fileno() < 0:
                socket_file.lock.take()
        except (OSError, HostError) as error:
            LOG.warning("there is no lock: %s", error)
            socket_file.lock.release()
        try:
            yield listener
        finally:
            socket_file.lock.release()


def accepted(listener: socket.socket) -> socket.socket:
    """Accept a connection that never waits, as `socket.accept` does; that takes twice as long."""
    descriptor = builtins.accept_now(listener.fileno())
    try:
        return socket.socket(socket.AF_UNIX, _STREAM, 0, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
