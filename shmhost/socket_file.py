"""A listening Unix socket and its file: made where nothing else lives, held by a lock, removed at the end."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import stat
from pathlib import Path

from shmprotocol.errors import ShmError

LOG = logging.getLogger("shmhost")

BACKLOG = 1024


class HostError(ShmError):
    """The host cannot start: the message says why and what to do."""


class SocketFile:
    """The listening socket and its file, held by a lock beside it that dies with the process.

    A socket file whose lock is free is stale, whatever killed its host; nothing else is ever removed.
    """

    def __init__(self, path: str, mode: int) -> None:
        self._path = Path(path)
        self._mode = mode
        self._lock = -1
        self._listener: socket.socket | None = None
        self.restarts = 0  # how often a host was started here before, as the lock's file tells

    def __enter__(self) -> socket.socket:
        try:
            self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._take_lock()
            self._remove_stale()
            return self._listen()
        except OSError as error:
            self._release()
            raise HostError(
                f"cannot listen on {self._path}: {error.strerror}. Choose another place with --socket or "
                "$SHMHOST_SOCKET"
            ) from error
        except BaseException:
            self._release()
            raise

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        self._release()

    def _take_lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._lock = os.open(f"{self._path}.lock", flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(
                f"another host serves {self._path}: use that one, end it, or choose another place with "
                "--socket or $SHMHOST_SOCKET"
            ) from None
        self._count_start()

    def _count_start(self) -> None:
        text = os.pread(self._lock, 20, 0)
        self.restarts = int(text) if text.isdigit() and len(text) < 20 else 0
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, b"%d" % (self.restarts + 1), 0)

    def _remove_stale(self) -> None:
        try:
            mode = self._path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise HostError(f"{self._path} exists and is no socket ({stat.filemode(mode)}): move it away")
        LOG.info("removed the stale socket %s", self._path)
        self._path.unlink()

    def _listen(self) -> socket.socket:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(str(self._path))
        self._path.chmod(self._mode)  # before listen: nobody can connect until then
        self._listener.listen(BACKLOG)
        return self._listener

    def _release(self) -> None:
        if self._listener is not None:
            self._listener.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
