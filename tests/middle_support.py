"""A listener between a client and its host, which hands the replies to an attach back in another form."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator

from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack

Part = tuple[bytes, list[int]]  # bytes, and descriptors that ride on the first of them
Change = Callable[[bytes, list[int]], Iterable[Part]]


class Middle:
    """A listener that hands on to a host what a client says, and back its replies, changed."""

    def __init__(self, path: str, host: str) -> None:
        self.path = path
        self.change: Change = lambda data, fds: [(data, fds)]
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._host = host
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                host = socket.socket(socket.AF_UNIX)
                host.connect(self._host)
                self._start(self._ask, client, host)
                self._start(self._answer, client, host)

    def _ask(self, client: socket.socket, host: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                host.sendall(data)
        with contextlib.suppress(OSError):
            host.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, host: socket.socket) -> None:
        with client, host:
            with contextlib.suppress(OSError):
                while self._hand_back(client, *descriptors.receive(host)):
                    pass
            for sock in (client, host):  # the other thread waits at them
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _hand_back(self, client: socket.socket, data: bytes, owned: descriptors.Owned) -> bool:
        is_opened = data[4:7] == b"\x94\xcc\x84"
        for part, fds in self.change(data, list(owned)) if is_opened else [(data, list(owned))]:
            if not part:
                return False
            send(client, part, fds)
        owned.close()
        return True

    def close(self) -> None:
        """End it; its clients are closed."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


def send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


EVENT = pack(
    m.Event(0, "published", m.RegionInfo("x", 1, 1, "current", 0, 0, 0, 0, 0, 0, "full", "memfd", 0, 0, 0))
)


@contextlib.contextmanager
def files(count: int) -> Iterator[list[int]]:
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    yield fds
    descriptors.close_all(fds)
