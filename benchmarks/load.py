"""Many clients at once, each with one request under way: packed frames, and no look at what is granted.

With clients in turn a host sleeps and wakes for each request, which costs the bare host 20 us as well: that
is the kernel's figure. A host of many clients is asked again before it can sleep.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import msgpack

from benchmarks.baseline import REQUEST_SIZE
from benchmarks.processes import connected
from shmprotocol.wire import messages as m
from shmprotocol.wire import shortcut
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all

NAME = "load"  # of the region that is opened
_ANCILLARY = socket.CMSG_SPACE(4)
_HELLO = pack(m.Hello(1, m.VERSION_MIN, m.VERSION_MIN, "load"))
_OPEN = pack(m.Open(5, (NAME,), (), False))
_BARE = b"o".ljust(8, b"\0") + (8192).to_bytes(REQUEST_SIZE - 8, "little")
_BARE_RELEASE = b"r".ljust(REQUEST_SIZE, b"\0")


class Load:
    """The clients. `ask` returns a client's next request, from the reply to its last one."""

    def __init__(self, path: str, clients: int, hello: bytes, ask: Callable[[bytes], bytes]) -> None:
        self._ask = ask
        self._socks = [connected(path) for _ in range(clients)]
        for sock in self._socks:
            if hello:
                sock.sendall(hello)
                sock.recv(65536)
            sock.sendall(ask(b""))

    def run(self, requests: int) -> None:
        """Read so many replies, by all clients in turn, and ask again after each."""
        for number in range(requests):
            sock = self._socks[number % len(self._socks)]
            reply, ancillary, _, _ = sock.recvmsg(65536, _ANCILLARY)
            for _, _, rights in ancillary:
                close_all(struct.unpack("i", rights))
            sock.send(self._ask(reply))

    def close(self) -> None:
        """End all clients."""
        for sock in self._socks:
            sock.close()


def ours(path: str, clients: int) -> Load:
    """Return clients of our host, which has a region of NAME: each attaches to it, over and over."""
    return Load(path, clients, _HELLO, _next)


def bare(path: str, clients: int) -> Load:
    """Return clients of the bare host that do the same."""
    return Load(path, clients, b"", lambda reply: _BARE_RELEASE + _BARE if reply else _BARE)


def _next(reply: bytes) -> bytes:
    return shortcut.release(msgpack.unpackb(reply[4:])[3][0][0]) + _OPEN if reply else _OPEN
