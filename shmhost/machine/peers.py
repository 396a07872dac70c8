"""The identity of a socket's peer, from the kernel. Makes no decisions."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from shmhost.core.peers import Peer
from shmprotocol.kernel.constants import SO_PEERGROUPS, SO_PEERPIDFD

_LIBC = ctypes.CDLL(None, use_errno=True)
_USUAL_SIZE = 256  # bytes: 64 groups


def peer_of(sock: socket.socket) -> Peer:
    """Return the peer's identity, from the kernel (unix(7))."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(uid, gid, pid, frozenset(_groups_of(sock)))


def _groups_of(sock: socket.socket) -> tuple[int, ...]:
    try:
        return tuple(memoryview(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, _USUAL_SIZE)).cast("I"))
    except OSError as error:
        if error.errno != errno.ERANGE:
            return ()  # Linux before 4.13, or the peer has gone
    # Not by socket.getsockopt: it takes 1,024 bytes at most, and users can have 65,536 groups.
    buffer = (ctypes.c_uint32 * 32)()
    for _ in range(2):
        size = ctypes.c_uint32(ctypes.sizeof(buffer))
        result = _LIBC.getsockopt(sock.fileno(), socket.SOL_SOCKET, SO_PEERGROUPS, buffer, ctypes.byref(size))
        if result == 0:
            return tuple(buffer[: size.value // 4])
        if ctypes.get_errno() != errno.ERANGE:
            return ()  # Linux before 4.13, or the peer has gone
        buffer = (ctypes.c_uint32 * (size.value // 4))()  # as many as the kernel says that there are
    return ()


def peer_pidfd(sock: socket.socket) -> int | None:
    """Return a descriptor that becomes readable when the peer dies; the caller closes it. None: use EOF.

    OSError: no descriptor is left, or the peer is dead and reaped (Linux before 6.16 gives none then). A
    forked child of it may have the socket, so that EOF would come late or never.
    """
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.ENODATA):
            return None  # Linux before 6.5, or a socket that has no process
        raise
