"""The descriptors that a service manager passes to a host: sd_listen_fds(3), written to its protocol.

Sockets of socket units come first, then the entries of its store. Nothing here waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, MutableMapping

from shmhost.core.from_store import Entry
from shmhost.core.stored import is_entry
from shmhost.serving.notify import number_in
from shmprotocol.errors import InvalidArgument
from shmprotocol.tuples import NamedTuple

LISTEN_FDS_START = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
# All that sd_listen_fds(3) removes; LISTEN_PIDFDID since systemd 258.
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Given(NamedTuple):
    """A listening socket, or None, and what was in the store: all close-on-exec, and the caller's."""

    listener: socket.socket | None
    entries: tuple[Entry, ...]


def take_given(environ: MutableMapping[str, str], pid: int) -> Given:
    """Return what a service manager passed to this process.

    The listener is non-blocking. $LISTEN_FDS and its like are removed in any case. InvalidArgument when they
    are bad, or when there is a socket that is not one listening AF_UNIX stream socket; the descriptors are
    then left as they were. Other kinds of descriptors count as entries of the store, from where they can be
    removed then.
    """
    given = {name: environ.pop(name) for name in _LISTEN_VARIABLES if name in environ}
    count = number_in(given, "LISTEN_FDS")
    if number_in(given, "LISTEN_PID") != pid or count is None:
        return Given(None, ())
    listener, entries = -1, list[Entry]()
    names = _names(given, count)
    for descriptor, name in enumerate(names, LISTEN_FDS_START):
        if is_entry(name) or not _may_be_listener(descriptor, is_first=name == names[0], count=count):
            entries.append((name, descriptor))
        elif listener >= 0:
            raise _too_many(count)
        else:
            listener = descriptor
    for name, descriptor in entries:
        try:
            os.set_inheritable(descriptor, False)
        except OSError as error:
            raise InvalidArgument(
                f"$LISTEN_FDNAMES has {name!r:.40} for {descriptor}: {error.strerror}"
            ) from None
    return Given(_listener(listener) if listener >= 0 else None, tuple(entries))


def _names(given: Mapping[str, str], count: int) -> list[str]:
    """Return the name of each descriptor; "" for one alone that has none."""
    text = given.get("LISTEN_FDNAMES")
    if text is None:
        if count != 1:
            raise _too_many(count)
        return [""]
    names = text.split(":")
    if len(names) != count:
        raise InvalidArgument(f"$LISTEN_FDNAMES has {len(names)} names for $LISTEN_FDS={count}: unset both")
    return names


def _may_be_listener(descriptor: int, *, is_first: bool, count: int) -> bool:
    """Whether a descriptor is the listener, not part of the store. InvalidArgument: it is another socket.

    `is_first`: it has the name of the first one, which is that of the socket unit, if there is one.
    """
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        if count > 1 and error.errno in (errno.ENOTSOCK, errno.EBADF):  # or O_PATH
            return False
        raise _refusal(f"not a socket ({error.strerror})", descriptor) from None
    wrong = _what_is_wrong(sock)
    sock.detach()
    if wrong and is_first:
        raise _refusal(wrong, descriptor)
    return not wrong


def _listener(descriptor: int) -> socket.socket:
    listener = socket.socket(fileno=descriptor)
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def _what_is_wrong(listener: socket.socket) -> str | None:
    if listener.family != socket.AF_UNIX:
        return f"a socket of family {listener.family}"
    if listener.type != socket.SOCK_STREAM:
        return f"a socket of type {listener.type}"
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "a socket that does not listen (Accept=yes?)"
    return None


def _too_many(count: int) -> InvalidArgument:
    return InvalidArgument(f"a host serves one socket, not $LISTEN_FDS={count}: keep one ListenStream=")


def _refusal(problem: str, descriptor: int) -> InvalidArgument:
    return InvalidArgument(
        f"descriptor {descriptor}, passed with $LISTEN_FDS, is {problem}: pass one listening AF_UNIX "
        "stream socket, ListenStream=/a/path with Accept=no, or unset $LISTEN_FDS"
    )
