"""A relay between clients and their host that puts other descriptors in the place of some: a hostile host."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable

from shmprotocol.wire import descriptors

Swap = Callable[[int], int | None]  # the n-th descriptor of a conversation: another in its place, or None


class Swapper:
    """A listener at a path. `swap` is asked for each descriptor that comes from the host."""

    def __init__(self, path: str, host: str, swap: Swap) -> None:
        self.count = 0
        self._host = host
        self._swap = swap
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                host = socket.socket(socket.AF_UNIX)
                host.connect(self._host)
                self._relay(client, host)

    def _relay(self, client: socket.socket, host: socket.socket) -> None:
        for source, target, is_back in ((client, host, False), (host, client, True)):
            threading.Thread(target=self._copy, args=(source, target, is_back), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, is_back: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, fds, _, _ = socket.recv_fds(source, 1 << 16, 64)
                if not data:
                    break
                sent = [self._changed(fd) if is_back else fd for fd in fds]
                try:
                    socket.send_fds(target, [data], sent) if sent else target.sendall(data)
                finally:
                    descriptors.close_all({*fds, *sent})
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _changed(self, fd: int) -> int:
        """Return what goes on in place of a descriptor, which is closed after that."""
        with self._lock:
            number, self.count = self.count, self.count + 1
        other = self._swap(number)
        if other is not None:
            return os.dup(other)
        if not _is_control(fd):
            return fd
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._relay(ours, socket.socket(fileno=os.dup(fd)))
        return theirs.detach()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _is_control(fd: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.type == socket.SOCK_SEQPACKET
