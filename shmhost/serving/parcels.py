"""Bytes with any number of descriptors, over the socket between two hosts, waiting. Knows no state.

The kernel takes 253 descriptors with a message, and counts those in flight against the user that sent them
(unix(7)): so they go a few at a time, and the sender waits for the reader where they are too many.
"""

from __future__ import annotations

import errno
import socket
import struct
import time

from shmprotocol.errors import HostError
from shmprotocol.wire import descriptors
from shmprotocol.wire.messages import LOST
from shmprotocol.wire.names import MAX_DESCRIPTORS

_HEAD = struct.Struct("<QQ")  # bytes, descriptors
_CARRIER = b"d"  # descriptors ride on a byte
_PAUSE_S = 0.0005  # for the reader to take what is in flight
_READ = 1 << 20


def send(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send bytes and descriptors, which stay the caller's. OSError: the peer is gone, or reads nothing."""
    sock.sendall(_HEAD.pack(len(data), len(fds)))
    for start in range(0, len(fds), MAX_DESCRIPTORS):
        _send_some(sock, fds[start : start + MAX_DESCRIPTORS])
    sock.sendall(data)


def _send_some(sock: socket.socket, fds: list[int]) -> None:
    end = time.monotonic() + (sock.gettimeout() or 0)
    while True:
        try:
            descriptors.send(sock, _CARRIER, fds, 0)
            return
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or time.monotonic() > end:
                raise
            time.sleep(_PAUSE_S)


def receive(sock: socket.socket) -> tuple[bytes, descriptors.Owned]:
    """Return what `send` sent. OSError: the peer is gone, or sends nothing. HostError: no room for them."""
    size, count = _HEAD.unpack(receive_exactly(sock, _HEAD.size))
    owned = descriptors.Owned()
    while len(owned) < count:
        data, some = descriptors.receive(sock, size=len(_CARRIER))
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, "the peer is gone")
        if LOST in some:
            raise HostError(
                f"this process may not open {count} descriptors more: raise its limit (ulimit -n)"
            )
        owned.extend(map(some.pop, (0,) * len(some)))
    return receive_exactly(sock, size), owned


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Return so many bytes. OSError: the peer is gone, or sends nothing."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(min(size - len(data), _READ))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the peer is gone")
        data += part
    return bytes(data)
