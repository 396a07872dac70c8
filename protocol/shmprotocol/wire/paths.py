"""The path of the host's socket, computed here for both sides. Reads the environment, opens no file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from shmprotocol.errors import InvalidArgument

SOCKET_VARIABLE = "SHMHOST_SOCKET"
# sun_path of unix(7) has 108 bytes, with its terminating zero.
MAX_SOCKET_PATH = 107

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def socket_path(given: AnyPath | None, environ: Mapping[str, str]) -> str:
    """Return the socket to use: the one given, $SHMHOST_SOCKET, the user's runtime folder, or /run.

    InvalidArgument if the path cannot be a socket's: empty, over 107 bytes, with a zero byte, or not text
    that a file name can have.
    """
    path = os.fsdecode(given) if given is not None else environ.get(SOCKET_VARIABLE)
    if path is None:
        runtime = environ.get("XDG_RUNTIME_DIR") or "/run"
        path = os.path.join(runtime, "shmhost", "host.sock")
    try:
        length = len(os.fsencode(path))
    except UnicodeEncodeError:  # lone surrogates, but for those that stand for bytes
        raise InvalidArgument(f"a socket path is a file name, which cannot be {path!r:.120}") from None
    if not 1 <= length <= MAX_SOCKET_PATH or "\0" in path:
        raise InvalidArgument(
            f"a socket path has 1 to {MAX_SOCKET_PATH} bytes and no zero byte, not {length}: {path!r:.120}"
        )
    return path
