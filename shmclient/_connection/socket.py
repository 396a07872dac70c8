"""What a fork and the end of a host mean for a connection; shared by both channels."""

from __future__ import annotations

import socket
import weakref
from typing import Protocol

from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._process.fork import GATES, at_fork

_PEEK = int(socket.MSG_PEEK) | int(socket.MSG_DONTWAIT)  # as a number: see shmprotocol.descriptors


class Detachable(Protocol):
    """What belongs to one process: a forked child lets go of it without a word to the host."""

    def detach(self) -> None:
        """Close this process's copies; take no lock."""


# Connections and clients of this process; each child starts without them.
DETACHABLES: weakref.WeakSet[Detachable] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for one in list(DETACHABLES):
        one.detach()
    DETACHABLES.clear()
    ADDRESS_SPACE.after_fork()  # last: what it gives up now finds its connection detached


at_fork(GATES, ADDRESS_SPACE.before_fork, ADDRESS_SPACE.after_fork, _after_fork_in_child)


def has_ended(sock: socket.socket) -> bool:
    """Whether the host has closed a connection, and all that it said before has been read. Never waits."""
    try:
        return not sock.recv(1, _PEEK)
    except BlockingIOError:
        return False
    except OSError:  # reset, or closed by another thread
        return True
