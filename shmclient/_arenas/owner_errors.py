"""The errors that the owner of an arena gets, by the number that C has returned."""

from __future__ import annotations

import errno
import os
from typing import Any

from shmclient._arenas.reader import read_error
from shmprotocol.errors import (
    AccessDenied,
    ArenaFull,
    HostGone,
    HostTimeout,
    InvalidArgument,
    OutOfMemory,
    QuotaExceeded,
    RegionBusy,
    RegionExists,
    RemoteProtocolError,
    ShmError,
)

_HOST_ERRORS: dict[int, type[ShmError]] = {
    errno.EDQUOT: QuotaExceeded,
    errno.ENOMEM: OutOfMemory,
    errno.EEXIST: RegionExists,
    errno.EBUSY: RegionBusy,
    errno.EINVAL: InvalidArgument,
    errno.EPERM: AccessDenied,
    errno.EPIPE: HostGone,
    errno.ECONNRESET: HostGone,
    errno.ETIMEDOUT: HostTimeout,
    **dict.fromkeys(  # what it sent is not a connected socket
        (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN, errno.EOPNOTSUPP), RemoteProtocolError
    ),
}


def host_error(error: int, what: str) -> ShmError | OSError:
    """Return the error of what the host was asked for on the arena's socket."""
    kind = _HOST_ERRORS.get(error)
    text = f"the host did not {what}: {os.strerror(error)}"
    return OSError(error, text) if kind is None else kind(text)


def put_error(arena: Any, error: int, name: object, size: int) -> ShmError | OSError:
    """Return the error of a value that needs a block of so many bytes; 0: it has one."""
    value = f"{name!r}, which needs {size} bytes" if size else repr(name)
    if error == errno.ENFILE:
        return ArenaFull(
            f"the arena {arena.name!r} has no name left for {name!r}: create it with more names="
        )
    if error == errno.ENOSPC:
        return ArenaFull(f"the arena {arena.name!r} has no room for {value}: {_fullness(arena)}")
    if error == errno.EPIPE:
        return HostGone(
            f"the arena {arena.name!r} has no free room for {value}, and can use none again: its host "
            "went, or took it from this client, before it told of all readers. Create it anew"
        )
    return read_error(error, name, arena.name)


def _fullness(arena: Any) -> str:
    size, used, retired, ledgers = arena._state()
    free = f"at most {arena._room()} are free in a row"
    text = f"{used} of {size} bytes are in use, in {len(arena)} names, and {free}"
    holders = [f"pid {pid or 'unknown'} uses {blocks}" for _, pid, blocks in arena._holders()]
    if holders:
        return f"{text}; of {retired} values that were replaced, {', '.join(holders)}"
    cure = "create it larger, or with a larger max_size"
    readers = f"; {ledgers} clients read it and hold nothing else" if ledgers else ""
    return f"{text}{readers}: {cure}"
