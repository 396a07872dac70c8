"""The file beside a host's socket with its identity in a fleet, and the slice that it used last."""

from __future__ import annotations

import contextlib
import json
import os
import secrets

from shmprotocol.errors import HostError
from shmprotocol.tuples import NamedTuple

DIGITS = 16  # hexadecimal ones, of the identity
MAX_SIZE = 4096  # bytes


class Identity(NamedTuple):
    """The identity of a host, over restarts; `slice` is a wish, None for a new host."""

    host: str
    slice: int | None
    lost: tuple[int, ...] = ()  # slices that others have now, and in which regions of this host may lie


def load(path: str) -> Identity:
    """Return the identity in a file, a new one if there is none or another user's. HostError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return Identity(secrets.token_hex(DIGITS // 2), None)
    except OSError as error:
        raise HostError(f"the identity in the fleet, {path}, cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as stream:
        is_own = os.fstat(descriptor).st_uid == os.geteuid()
        return _parse(path, stream.read(MAX_SIZE), is_own=is_own)


def _parse(path: str, data: bytes, *, is_own: bool) -> Identity:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        values = json.loads(data)
        host, number = values["host"], values["slice"]
        is_valid = isinstance(host, str) and len(host) == DIGITS and not set(host) - set("0123456789abcdef")
        if is_own and is_valid and (number is None or isinstance(number, int)):
            lost = tuple([int(each) for each in values.get("lost", ())])
            return Identity(host, number, lost)
    raise HostError(f"{path} is not the identity of a host in a fleet: remove it, and it will be a new one")


def store(path: str, identity: Identity) -> None:
    """Write the file, whole or not at all. OSError."""
    temporary = f"{path}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(json.dumps(identity._asdict()).encode())
            stream.flush()
            os.fsync(descriptor)
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
