"""The errors of this package's calls: an OSError with the right errno, the values, and the remedy."""

from __future__ import annotations

import errno

from shmclient.posix._errnos import errno_help, errno_string

_WORD_MAX = 1 << 63  # the largest length or offset that the kernel accepts


def failure(code: int, what: str) -> OSError:
    """Return the error of a call; its class follows from the code (FileNotFoundError, ...)."""
    return OSError(code, f"{errno_string(code)}: {what}. {' '.join(errno_help(code).split())}")


def check_result(result: int, what: str) -> int:
    """Return the result of a C call; raise its error if the result is -errno."""
    if result < 0:
        raise failure(-result, what)
    return result


def check_descriptor(fd: int) -> int:
    """Return a descriptor's number; EBADF if it is out of range, TypeError if it is not an int."""
    if not isinstance(fd, int):
        raise TypeError(f"a descriptor is an int, not a {type(fd).__name__}: call its fileno()")
    if not 0 <= fd < 1 << 31:
        raise failure(errno.EBADF, f"descriptor {fd}")
    return fd


def check_size(value: int, what: str, least: int = 0) -> int:
    """Return a length, an offset or an address in bytes; EINVAL below the least, EOVERFLOW when too large."""
    if not isinstance(value, int):
        raise TypeError(f"{what} is an int, not a {type(value).__name__}")
    if value < least:
        raise failure(errno.EINVAL, f"{what} {value}, at least {least}")
    if value >= _WORD_MAX:
        raise failure(errno.EOVERFLOW, f"{what} {value}")
    return value


def check_flags(value: int, what: str) -> int:
    """Return flags; EINVAL when they do not fit in an int of C."""
    if not isinstance(value, int):
        raise TypeError(f"{what} are an int, not a {type(value).__name__}")
    if not 0 <= value < 1 << 31:
        raise failure(errno.EINVAL, f"{what} {value:#x}")
    return value
