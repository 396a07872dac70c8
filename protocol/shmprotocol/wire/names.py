"""The names and limits of the wire: valid region names, and the limits of sizes and counts.

Knows no message and no socket. The words here are the strings on the wire.
"""

from __future__ import annotations

import functools
from enum import StrEnum
from typing import Literal

from shmprotocol.errors import InvalidArgument

MAX_NAME = 255  # bytes of UTF-8
# Nothing has longer arrays; without it, a few nested array headers would claim gigabytes.
MAX_ARRAY = 4096
MAX_FRAME = 1024 * 1024  # bytes after the length: more than any message needs, little enough to buffer
MAX_METADATA = MAX_FRAME // 2  # bytes: metadata describes the data; it is not a place for data
# Of a frame from a client, which a host must buffer for untrusted peers. The largest sensible request
# is a Release of 4096 leases, 37 KB.
MAX_REQUEST = 64 * 1024
# SCM_MAX_FD of the kernel is 253; 64 keeps a peer's undelivered descriptors far from its limit.
MAX_DESCRIPTORS = 64
MAX_RESTORED = 32  # regions in a Restore: taking them back takes a host half a millisecond
NOT_NOW = 1  # the flags of a Grant in a Restored whose lease is 0: it can be handed back again, later
# The kinds of messages on the control socket of an arena, in the `struct shm_arena_message` of shm_arena.h.
ARENA_READY, ARENA_GROW, ARENA_LEDGER, ARENA_FORGET, ARENA_LEAVE, ARENA_BOARD = 1, 2, 3, 4, 5, 6
ARENA_BACK, ARENA_KEEP, ARENA_REST = 7, 8, 9
LEDGER_HOLDS = 131_072  # values that one client can use at a time, of all arenas
LEDGER_SIZE = 4096 + 16 * LEDGER_HOLDS  # bytes: a page, and the holds
MAX_MODE = 0o777  # of a region: permission bits alone
# Of a name: exact as a JSON number and as a double. At a million publishes a second it lasts 285 years.
MAX_GENERATION = 2**53 - 1


# The words for type checkers; see Seal and Backend for their meaning.
SealName = Literal["full", "writer", "shared"]
BackendName = Literal["memfd", "shm"]


class Seal(StrEnum):
    """The protection that the kernel enforces on a published region."""

    FULL = "full"  # nobody can write, the creator included
    WRITER = "writer"  # nobody but the creator, through a mapping that it has
    NONE = "none"  # the backend takes no seals: only the host gives it, no request asks for it
    SHARED = "shared"  # all who may write can, for good: the size is sealed, the content is not


SEALS = (Seal.FULL, Seal.WRITER, Seal.SHARED)  # what a Create may ask for


class Backend(StrEnum):
    """The kind of a region's memory object."""

    MEMFD = "memfd"  # reached by its descriptors alone, memfd_create(2)
    SHM = "shm"  # a file of /dev/shm, for programs that know only shm_open(3)


BACKENDS = tuple(Backend)
# By word: † a look into a table takes 0.06 us, a call of an enumeration 0.4 us (2026-11).
_SEALS: dict[str, Seal] = {seal.value: seal for seal in SEALS}
_BACKENDS: dict[str, Backend] = {backend.value: backend for backend in BACKENDS}


class State(StrEnum):
    """Where a region is in its life. The host's `regions` has the table of what may follow what."""

    SPARE = "spare"  # it has no name yet: its client may fill it, and give it one
    CREATING = "creating"  # its creator fills it
    ABORTED = "aborted"  # never published, and its creator may still have it mapped
    CURRENT = "current"  # what its name leads to
    SUPERSEDED = "superseded"  # a newer generation has the name, and someone still holds this one
    UNLINKED = "unlinked"  # the name is gone, and someone still holds the region
    FREED = "freed"  # gone: known to the host's log alone, no message has it


class ChangeKind(StrEnum):
    """The kind of a change of a name, as watchers get it."""

    PUBLISHED = "published"  # a generation, the first of the name or a further one
    CHANGED = "changed"  # the mode
    UNLINKED = "unlinked"


def origin_of(host: str) -> str:
    """Return the part of a host's name that its successors share, all of it if it has no such part."""
    return host.rpartition(".")[0] or host


def check_mode(mode: int) -> int:
    """Return the mode of a region, or raise InvalidArgument."""
    if type(mode) is not int or not 0 <= mode <= MAX_MODE:
        shown = f"{mode:#o}" if type(mode) is int else repr(mode)
        raise InvalidArgument(f"a mode is 0o000 to {MAX_MODE:#o}, not {shown:.40}")
    return mode


def check_seal(seal: str) -> Seal:
    """Return the seal that a Create may ask for, or raise InvalidArgument."""
    try:
        return _SEALS[seal]
    except (KeyError, TypeError):
        raise InvalidArgument(f"seal is one of {', '.join(SEALS)}, not {seal!r:.40}") from None


def check_shared(seal: Seal, backend: Backend) -> None:
    """Raise InvalidArgument for a backend without seals, which cannot keep the size from changing."""
    if seal is Seal.SHARED and backend is not Backend.MEMFD:
        raise InvalidArgument(f"seal='shared' takes the backend memfd, not {backend}: its size is sealed")


def check_growth(size: int, max_size: int, seal: Seal, backend: Backend) -> None:
    """Raise InvalidArgument for a region that cannot grow to a size, 0 for none."""
    if max_size and (seal is Seal.FULL or backend is not Backend.MEMFD):
        raise InvalidArgument(
            f"max_size takes seal='writer' or seal='shared' and the backend memfd, not {seal} and {backend}: "
            "a full seal is for good, for what would be added, too"
        )
    if max_size and max_size < size:
        raise InvalidArgument(f"max_size is at least the size, {size}, not {max_size}")


def check_backend(backend: str) -> Backend:
    """Return the backend, or raise InvalidArgument."""
    try:
        return _BACKENDS[backend]
    except (KeyError, TypeError):
        raise InvalidArgument(f"backend is one of {', '.join(BACKENDS)}, not {backend!r:.40}") from None


@functools.lru_cache(maxsize=4096)  # most requests use the same few names
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
