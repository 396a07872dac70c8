"""The names and limits of the wire: what a region may be called, and how much of anything there may be.

Knows no message and no socket. The words here are the strings that stand on the wire.
"""

from __future__ import annotations

import functools

from shmprotocol.errors import InvalidArgument

MAX_NAME = 255  # bytes of UTF-8
# Nothing has longer arrays; without it, a few nested array headers would claim gigabytes.
MAX_ARRAY = 4096
MAX_FRAME = 1024 * 1024  # bytes after the length: more than any message needs, little enough to buffer
MAX_METADATA = MAX_FRAME // 2  # bytes: what describes a region is not the place for its data
# Of a frame from a client, which a host must buffer for peers it does not know. The largest sensible request
# is a Release of 4096 leases, 37 KB.
MAX_REQUEST = 64 * 1024
# SCM_MAX_FD of the kernel is 253; 64 keeps a peer's undelivered descriptors far from its limit.
MAX_DESCRIPTORS = 64
SEALS = ("full", "writer")
BACKENDS = ("memfd", "shm")


@functools.lru_cache(maxsize=4096)  # the same few names come again and again
def check_name(name: str) -> str:
    """Return the name, or raise InvalidArgument: 1-255 bytes of UTF-8, no empty, `.` or `..` part."""
    if type(name) is not str:
        raise InvalidArgument(f"a name is a str, not {type(name).__name__}: {name!r:.40}")
    encoded = name.encode("utf-8", "surrogatepass")
    if not 1 <= len(encoded) <= MAX_NAME:
        raise InvalidArgument(f"a name has 1 to {MAX_NAME} bytes, not {len(encoded)}: {name[:40]!r}")
    if not name.isprintable() and any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise InvalidArgument(f"a name has no control characters: {name!r}")
    if any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise InvalidArgument(f"a name is UTF-8: {name!r}")
    for part in name.split("/"):
        if part in ("", ".", ".."):
            raise InvalidArgument(
                f"{name!r} has the part {part!r}: use non-empty parts between single slashes"
            )
    return name


def check_part(what: str, text: str) -> str:
    """Return the start of a name (or a name to go on after), or raise InvalidArgument: no name is longer."""
    if type(text) is not str:
        raise InvalidArgument(f"{what} is a str, not {type(text).__name__}: {text!r:.40}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is UTF-8, without surrogates: {text[:40]!r}") from None
    if size > MAX_NAME:
        raise InvalidArgument(f"{what} has at most {MAX_NAME} bytes, not {size}: {text[:40]!r}")
    return text
