"""Errors for the limits of this process. Knows no socket."""

from __future__ import annotations

import errno
import resource

from shmprotocol.errors import OutOfMemory
from shmprotocol.wire import messages as m


def no_room(reply: m.Message, received: int) -> OutOfMemory:
    """Return the error, with errno EMFILE, for a reply that came with fewer descriptors than it has."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    declared = m.descriptors_of(reply)
    return OutOfMemory(
        f"cannot receive {declared - received} of {declared} descriptors: this process is at its "
        f"limit of {limit} open files. Close regions, or raise the limit (ulimit -n, RLIMIT_NOFILE)",
        errno=errno.EMFILE,
    )
