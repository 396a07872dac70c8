"""How a client reaches its host, and what a fork means for it: shared by the sync and async channels."""

from __future__ import annotations

import atexit
import os
import socket
import stat
import weakref
from typing import Protocol

from shmclient._fork import GATES, at_fork
from shmclient.mapping import ADDRESS_SPACE
from shmprotocol.errors import AccessDenied, HostGone, ShmError

_PEEK = int(socket.MSG_PEEK) | int(socket.MSG_DONTWAIT)  # as a number: see shmprotocol.descriptors


class Detachable(Protocol):
    """What belongs to one process: a forked child, or the exit, lets go of it without a word to the host."""

    def detach(self) -> None:
        """Close this process's copies; take no lock."""


# Connections and clients of this process; each child starts without them.
DETACHABLES: weakref.WeakSet[Detachable] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in list(DETACHABLES):
        one.detach()
    DETACHABLES.clear()
    ADDRESS_SPACE.after_fork()  # last: what it gives up now finds its connection detached


def _at_exit() -> None:
    # Views that live until the very end keep their connections open; the kernel ends both anyway.
    for one in list(DETACHABLES):
        one.detach()


atexit.register(_at_exit)
at_fork(GATES, ADDRESS_SPACE.before_fork, ADDRESS_SPACE.after_fork, _after_fork_in_child)


class ClientSocket(socket.socket):
    """A socket that closes without a ResourceWarning when it is collected.

    Views keep a connection open past its client on purpose; the garbage collector may find both at once.
    """

    def __del__(self) -> None:
        self.close()


def connect_socket(path: str, timeout_s: float | None) -> socket.socket:
    """Return a socket connected to the host; with timeout 0 one that never blocks.

    HostGone, AccessDenied: nobody there, or not for us. BlockingIOError: try again, its queue is full.
    """
    sock = ClientSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
    except BlockingIOError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise explain(path, error) from None
    except BaseException:
        sock.close()
        raise
    return sock


def has_ended(sock: socket.socket) -> bool:
    """Whether the host has closed a connection, and all that it said before has been read. Never waits."""
    try:
        return not sock.recv(1, _PEEK)
    except BlockingIOError:
        return False
    except OSError:  # reset, or closed by another thread
        return True


def explain(path: str, error: OSError) -> ShmError:
    """Return the error that says why there is no connection, and what to do."""
    if isinstance(error, PermissionError):
        return AccessDenied(f"may not use the host at {path}: {_owner(path)}, and this is uid {os.geteuid()}")
    if isinstance(error, TimeoutError):
        return HostGone(f"the host at {path} takes no connection: it is stopped or overloaded")
    return HostGone(
        f"no host at {path} ({error.strerror}). Start one with `shmhost serve --socket {path}`, or name the "
        "socket of one that runs in $SHMHOST_SOCKET"
    )


def _owner(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return "a folder above it is closed to others"
    return (
        f"it belongs to uid {status.st_uid}, gid {status.st_gid}, mode {stat.S_IMODE(status.st_mode):04o} "
        "(its group may use it)"
    )
