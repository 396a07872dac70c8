"""The error tree of host and clients. Knows no message, socket or memory."""

from __future__ import annotations

import errno
from typing import Any, ClassVar, TypeVar

E = TypeVar("E", bound="ShmError")


class ShmError(Exception):
    """The base class of all errors of this project. `code` identifies the class on the wire.

    Each subclass is also the built-in error that a user would catch. If that is an `OSError`, it has an
    `errno`, the message as `strerror`, and the region's name or the socket's path as `filename`, if any.
    """

    code: ClassVar[str] = "error"
    _errno: ClassVar[int] = errno.EIO

    def __init__(self, message: str, *, errno: int | None = None, filename: str | None = None) -> None:
        super().__init__(message)
        self._message = message
        _explain(self, errno or self._errno, message, filename)

    def __str__(self) -> str:  # or an OSError would put the number before it
        return self._message

    def __reduce__(self) -> tuple[Any, ...]:  # or an OSError would lose its number and its filename
        values = (getattr(self, "errno", None), getattr(self, "filename", None))
        return _make, (type(self), self._message, *values)


def _explain(error: BaseException, number: int, text: str, filename: str | None) -> None:
    if isinstance(error, OSError):
        error.errno, error.strerror, error.filename = number, text, filename


def _make(kind: type[ShmError], message: str, errno: int | None, filename: str | None) -> ShmError:
    return kind(message, errno=errno, filename=filename)


def again(error: E) -> E:
    """Return a new error like this one, without its traceback.

    An error that is stored and raised to many callers must be new each time: a traceback keeps the frames of
    all its callers alive, and with them their local variables, such as a region.
    """
    make, values = error.__reduce__()
    new: E = make(*values)
    return new


def about(error: ShmError, filename: str) -> ShmError:
    """Return an error like this one, with the name of what it is about where it can have one."""
    return type(error)(str(error), errno=getattr(error, "errno", None), filename=filename)


class InvalidArgument(ShmError, ValueError):
    """A name, size, address or mode that no host can take."""

    code = "invalid"


class RegionNotFound(ShmError, FileNotFoundError):
    """No published region has this name."""

    code = "not-found"
    _errno = errno.ENOENT


class WaitTimeout(ShmError, TimeoutError):
    """The wait timed out: there was still no host, or it did not answer. For a name see RegionTimeout."""

    code = "wait-timeout"
    _errno = errno.ETIMEDOUT


class RegionTimeout(WaitTimeout, RegionNotFound):
    """The host is running, and the name was still missing when the wait timed out."""


class RegionExists(ShmError, FileExistsError):
    """The name is taken, and the request does not replace it."""

    code = "exists"
    _errno = errno.EEXIST


class AccessDenied(ShmError, PermissionError):
    """Owner, group and mode of the region do not let this peer do it."""

    code = "access-denied"
    _errno = errno.EACCES


class QuotaExceeded(ShmError, MemoryError):
    """More bytes or addresses than the host has left."""

    code = "quota-exceeded"


class RegionBusy(ShmError, BlockingIOError):
    """Another client is creating the name, or the region still has a writable mapping."""

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
    """The peer cancelled the request before the reply."""

    code = "cancelled"


class ProtocolError(ShmError, ConnectionError):
    """A violation of `protocol/README.md`, by this side or by the peer; see the two subclasses."""

    code = "protocol"
    _errno = errno.EPROTO


class LocalProtocolError(ProtocolError):
    """This side broke the protocol: a bug in this program, or an object that cannot be sent."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol: the connection cannot be used any more."""


class HostGone(ShmError, ConnectionError):
    """No host answers at the socket, or it stopped. Mapped regions stay mapped and readable."""

    code = "host-gone"
    _errno = errno.ECONNREFUSED


class HostError(ShmError):
    """The host cannot start: the message has the reason and the remedy."""


class HostTimeout(ShmError, TimeoutError):
    """The host is running but does not answer."""

    code = "host-timeout"
    _errno = errno.ETIMEDOUT


class AddressConflict(ShmError, OSError):
    """Another mapping of this process, or another region of the host, occupies the address."""

    code = "address-conflict"
    _errno = errno.EEXIST


class BadRegion(ShmError, ValueError):
    """A descriptor that is not a region's, or a region whose header, seals or metadata are corrupt."""

    code = "bad-region"


class Closed(ShmError, ValueError):
    """The object in use was closed before, by this program itself."""

    code = "closed"


class ClientClosed(Closed):
    """The client was closed: connect again."""


class RegionClosed(Closed):
    """The handle of a region was closed, or its construction is over."""


class WrongEventLoop(ShmError, RuntimeError):
    """An async client was used outside of the event loop that it belongs to."""

    code = "wrong-event-loop"


class PinReleased(ShmError, ValueError):
    """The pin was released; its address must not be used any more."""

    code = "pin-released"


class PointerEscapes(ShmError, ValueError):
    """A pointer that would lead out of shared memory."""

    code = "pointer-escapes"


class ArenaFull(ShmError, MemoryError):
    """An arena has no room, or no name left: the message says what fills it, and which readers hold what."""

    code = "arena-full"


# The refusals that a host can send. All other errors are raised by the side that detects them, never sent.
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
        AddressConflict,
    )
}


def refusal(code: str, message: str) -> ShmError:
    """Return the error for a refusal of the host; an unknown code gives the base class."""
    return REFUSALS.get(code, ShmError)(message)


def exit_code(error: ShmError) -> int:
    """Return the exit code of a command that ends with this error; 2 is reserved for wrong usage.

    3: no host. 4: no such region. 5: access denied. 6: timed out. 1: any other error.
    """
    codes: tuple[tuple[type[ShmError], int], ...] = (
        (WaitTimeout, 6),
        (HostTimeout, 6),
        (HostGone, 3),
        (RegionNotFound, 4),
        (AccessDenied, 5),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), 1)
