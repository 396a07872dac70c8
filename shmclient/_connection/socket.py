"""The effect of a fork on connections; shared by both clients."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from shmclient._process.address_space import ADDRESS_SPACE
from shmclient._process.fork import GATES, at_fork

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
    ADDRESS_SPACE.after_fork_in_child()  # last: what it gives up now finds its connection detached


at_fork(GATES, ADDRESS_SPACE.before_fork, ADDRESS_SPACE.after_fork, _after_fork_in_child)
