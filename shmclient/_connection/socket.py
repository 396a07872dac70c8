"""What a fork and the end of a host mean for a connection; shared by both channels."""

from __future__ import annotations

import socket
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._process.fork import GATES, at_fork

_PEEK = int(socket.MSG_PEEK) | int(socket.MSG_DONTWAIT)  # as a number: see shmprotocol.descriptors


T = TypeVar("T")

# Connections and clients of this process, and how a child of a fork lets go of each.
_DETACHABLES: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def detach_after_fork(owner: T, detach: Callable[[T], None]) -> None:
    """Have a forked child let go of its copy of an object, if it still lives then.

    `detach` closes the copy's descriptors, says nothing to the host, and takes no lock.
    """
    _DETACHABLES[owner] = detach


def _after_fork_in_child() -> None:
    for owner, detach in list(_DETACHABLES.items()):
        detach(owner)
    _DETACHABLES.clear()
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
