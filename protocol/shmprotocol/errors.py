"""The error tree of host and clients. Knows no message, socket or memory."""

from __future__ import annotations

import errno
from typing import ClassVar


class ShmError(Exception):
    """Anything this project refuses or fails at. `code` is the word that stands for it on the wire.

    Each subclass is also the built-in error that a user would catch; where that is an `OSError`,
    `errno` is set.
    """

    code: ClassVar[str] = "error"
    _errno: ClassVar[int | None] = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        if self._errno is not None:
            setattr(self, "errno", self._errno)  # noqa: B010 - an attribute of the OSErrors among us alone


def again(error: ShmError) -> ShmError:
    """Return a new error like this one, without its traceback.

    What is kept and raised to many must be new each time: a traceback keeps the frames of all its callers,
    and with them what their variables hold, a region for one.
    """
    new = type(error)(str(error))
    if (number := getattr(error, "errno", None)) is not None:
        setattr(new, "errno", number)  # noqa: B010 - as in __init__; some have one of their own
    return new


class InvalidArgument(ShmError, ValueError):
    """A name, size, address or mode that no host can take."""

    code = "invalid"


class RegionNotFound(ShmError, FileNotFoundError):
    """No published region has this name."""

    code = "not-found"
    _errno = errno.ENOENT


class WaitTimeout(RegionNotFound, TimeoutError):
    """The name was still missing, or there was still no host, when the time to wait was over."""

    code = "wait-timeout"
    _errno = errno.ETIMEDOUT


class RegionExists(ShmError, FileExistsError):
    """The name is taken, and replacing it was not asked for."""

    code = "exists"
    _errno = errno.EEXIST


class AccessDenied(ShmError, PermissionError):
    """Owner, group and mode of the region do not let this peer do it."""

    code = "access-denied"
    _errno = errno.EACCES


class QuotaExceeded(ShmError, MemoryError):
    """More bytes or addresses than the host has left to give."""

    code = "quota-exceeded"


class RegionBusy(ShmError, BlockingIOError):
    """Someone else is creating the name, or a writable mapping still lives."""

    code = "busy"
    _errno = errno.EBUSY


class OutOfMemory(ShmError, OSError):
    """The system, not a limit of the host, had no memory, descriptor or space left."""

    code = "out-of-memory"
    _errno = errno.ENOMEM


class Unsupported(ShmError, NotImplementedError):
    """This kernel, host or peer cannot do it."""

    code = "unsupported"


class Cancelled(ShmError):
    """The peer gave the request up before it was answered."""

    code = "cancelled"


class ProtocolError(ShmError, ConnectionError):
    """Somebody broke the rules of `protocol/README.md`; see the two subclasses for who."""

    code = "protocol"


class LocalProtocolError(ProtocolError):
    """We did: a bug in this program, or an object that cannot be put on the wire."""


class RemoteProtocolError(ProtocolError):
    """The peer did: the connection is of no more use."""


class HostGone(ShmError, ConnectionError):
    """No host answers at the socket, or it went away. What is mapped stays mapped and readable."""

    code = "host-gone"
    _errno = errno.ECONNREFUSED


class HostTimeout(ShmError, TimeoutError):
    """The host is there and does not answer."""

    code = "host-timeout"
    _errno = errno.ETIMEDOUT


class AddressConflict(ShmError, OSError):
    """Something else in this process lives at the region's address."""

    code = "address-conflict"
    _errno = errno.EEXIST


class BadRegion(ShmError, ValueError):
    """A descriptor that is no region, or one whose header, seals or metadata are broken."""

    code = "bad-region"


class RegionClosed(ShmError, ValueError):
    """The handle was closed, or its connection belongs to the parent process."""

    code = "closed"


class PinReleased(ShmError, ValueError):
    """The pin was released; its address must not be used any more."""

    code = "pin-released"


class PointerEscapes(ShmError, ValueError):
    """A pointer that would lead out of shared memory."""

    code = "pointer-escapes"


# What a host can answer with. The rest of the tree is raised by whoever notices it, and never sent.
REFUSALS: dict[str, type[ShmError]] = {
    refusal.code: refusal
    for refusal in (
        InvalidArgument,
        RegionNotFound,
        RegionExists,
        AccessDenied,
        QuotaExceeded,
        RegionBusy,
        OutOfMemory,
        Unsupported,
        Cancelled,
    )
}


def refusal(code: str, message: str) -> ShmError:
    """Return the error that a refusal of the host stands for; an unknown code gives the base class."""
    return REFUSALS.get(code, ShmError)(message)


def exit_code(error: ShmError) -> int:
    """Return the exit code of a command that ends with this error; 2 is left for wrong usage.

    3: no host. 4: no such region. 5: access denied. 6: a time to wait was over. 1: anything else.
    """
    codes: tuple[tuple[type[ShmError], int], ...] = (
        (WaitTimeout, 6),
        (HostTimeout, 6),
        (HostGone, 3),
        (RegionNotFound, 4),
        (AccessDenied, 5),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), 1)
