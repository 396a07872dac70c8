"""Descriptors over a Unix socket: the only module that calls `sendmsg` and `recvmsg`.

Received descriptors are close-on-exec from the start, and a truncated list is an error: both are easy
to forget. Knows no frame and no message.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat, starmap
from typing import Any

from shmprotocol.errors import RemoteProtocolError
from shmprotocol.kernel.constants import SO_PASSRIGHTS
from shmprotocol.native import builtins
from shmprotocol.wire.messages import LOST
from shmprotocol.wire.names import MAX_DESCRIPTORS

_SIZE = array.array("i").itemsize
_ANCILLARY = socket.CMSG_SPACE(MAX_DESCRIPTORS * _SIZE)
_READ = 16 * 1024  # bytes per read: nearly every reply fits, and the buffer is cheap to allocate
# As plain numbers: an `|` of the socket module's enum members takes 2 us, more than the call itself.
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_CTRUNC = int(socket.MSG_CTRUNC)
_SOCKET, _RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_PEEK = int(socket.MSG_PEEK)
DONTWAIT = int(socket.MSG_DONTWAIT)


def send(
    sock: socket.socket, data: bytes | bytearray | memoryview, descriptors: Sequence[int], flags: int
) -> int:
    """Send bytes, with descriptors on their first byte; return the number sent. The caller keeps them."""
    if not descriptors:
        return sock.send(data, flags | _NOSIGNAL)
    rights = (_SOCKET, _RIGHTS, array.array("i", descriptors))
    return sock.sendmsg([data], [rights], flags | _NOSIGNAL)


def send_now(
    sock: socket.socket, data: bytes, descriptors: Sequence[int], note: tuple[object, int] | None = None
) -> int:
    """Send as `send` does, without waiting. An array("i") of descriptors saves making one.

    `note` is the memory of a state file, and the number of a region: see `builtins.send_now`.
    """
    numbers = descriptors if type(descriptors) is array.array else array.array("i", descriptors)
    if note is None:
        return builtins.send_now(sock.fileno(), data, numbers)
    return builtins.send_now(sock.fileno(), data, numbers, *note)


def send_first(sock: socket.socket, queue: deque[bytes]) -> None:
    """Send the first frame of a queue, as far as there is room, and take that out. Never waits."""
    # One call for both: a frame that is sent and still there after Ctrl-C would be sent twice.
    sent, frame = chain[Any](map(sock.send, queue, (DONTWAIT | _NOSIGNAL,)), starmap(queue.popleft, ((),)))
    if sent < len(frame):
        queue.appendleft(frame[sent:])


def close_all(descriptors: Iterable[int]) -> None:
    """Close all descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


class Owned(list[int]):
    """Descriptors with one owner: those that are left are closed with this list.

    So an exception anywhere closes what its frames own, also KeyboardInterrupt, which Python raises between
    any two calls. Descriptors change their owner inside of one call of a function in C.
    """

    def take(self) -> Owned:
        """Move the first one, if there is one, to a list of its own."""
        first = Owned()
        first.extend(map(self.pop, (0,) if self else ()))
        return first

    def close(self) -> None:
        """Close them all. May be called again."""
        any(map(os.close, starmap(self.pop, repeat((), len(self)))))  # `close` returns None: all of them

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # It may be part of a cycle, where other destructors use it after this one.
        if self and not is_finalizing():
            with contextlib.suppress(ValueError):
                self.remove(LOST)
            self.close()


NONE = Owned()  # most messages have none; never added to


class Reading(list[tuple[bytes, list[Any], int, Any]]):
    """The result of one `recvmsg`, or nothing yet. Owns the descriptors until they are taken."""

    def take(self, descriptors: Sequence[int]) -> Owned:
        """Pass the ownership of the descriptors on."""
        owned = Owned()
        owned.extend(chain(descriptors, iter(self[0][1].clear, None)))
        return owned

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self and self[0][1] and not is_finalizing():
            close_all(_numbers(self[0][1]))


def receive(
    sock: socket.socket, flags: int = 0, reading: Reading | None = None, size: int = _READ
) -> tuple[bytes, Owned]:
    """Read once, at most `size` bytes, into a new `reading`; `b""` is EOF. The caller owns the descriptors.

    If this process had no room for all of them (RLIMIT_NOFILE), those that arrived are followed by LOST, for
    `Connection.receive`; no bytes are lost. RemoteProtocolError if the peer sent more than 64; those that
    arrived are closed. Both show as MSG_CTRUNC.
    """
    reading = Reading() if reading is None else reading
    reading.extend(map(sock.recvmsg, (size,), (_ANCILLARY,), (flags | _CLOEXEC,)))
    return taken(reading)


def taken(reading: Reading) -> tuple[bytes, Owned]:
    """Return what was received with a `recvmsg` that had room for all descriptors; see `receive`."""
    data, ancillary, result, _ = reading[0]
    if not ancillary and not result & _CTRUNC:
        return data, NONE
    descriptors = _numbers(ancillary)
    if result & _CTRUNC:
        # The kernel gives as many as there is room for in the buffer, or as the process may open (unix(7)).
        if len(descriptors) >= MAX_DESCRIPTORS:
            reading.take(descriptors).close()
            raise RemoteProtocolError(f"more than {MAX_DESCRIPTORS} descriptors were sent with one frame")
        descriptors.append(LOST)
    return data, reading.take(descriptors)


def _numbers(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    if len(ancillary) == 1 and len(ancillary[0][2]) == _SIZE:  # nearly always, and twice as fast
        level, kind, content = ancillary[0]
        return [int.from_bytes(content, sys.byteorder)] if (level, kind) == (_SOCKET, _RIGHTS) else []
    numbers: list[int] = []
    for level, kind, content in ancillary:
        if level == _SOCKET and kind == _RIGHTS:
            numbers += array.array("i", content[: len(content) // _SIZE * _SIZE])
    return numbers


def refuse(listener: socket.socket) -> bool:
    """Make the kernel refuse descriptors that are sent to a listener's connections; False if it cannot.

    The sender gets EPERM. Earlier connections are not covered: `are_refused` tells them apart.
    """
    try:
        listener.setsockopt(_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:  # ENOPROTOOPT: Linux before 6.16
        return False
    return True


def accept(sock: socket.socket) -> bool:
    """Make the kernel pass descriptors to a connection, which may have refused them; False if it cannot.

    Where it never refuses any, there is nothing to be done.
    """
    try:
        sock.setsockopt(_SOCKET, SO_PASSRIGHTS, 1)
    except OSError as error:
        return error.errno == errno.ENOPROTOOPT  # Linux before 6.16
    return True


def are_refused(sock: socket.socket) -> bool:
    """Whether a connection has refused descriptors from its start, by the listener's setting (connect(2))."""
    try:
        return sock.getsockopt(_SOCKET, SO_PASSRIGHTS) == 0
    except OSError:
        return False


def receive_data(sock: socket.socket, *, refused: bool) -> bytes:
    """Read once, without waiting, from a peer that may not send descriptors; receive none. `b""` is EOF.

    Unless the kernel has `refused` them, RemoteProtocolError if some arrived. They stay in the socket and
    are closed with it: a peer can make that block, and would block this thread if we received them.
    """
    if refused:
        return builtins.receive_now(sock.fileno())
    # With no room for descriptors a peek shows whether there are any, and the queue keeps them.
    data, _, result, _ = sock.recvmsg(_READ, 0, DONTWAIT | _PEEK)
    if result & _CTRUNC:
        raise RemoteProtocolError("descriptors arrived, but requests have none")
    return sock.recv(len(data), DONTWAIT) if data else data


def reopen(descriptor: int) -> Owned:
    """Return one new descriptor of the same object, read-only and with an offset and flags of its own.

    The caller still owns the first. OSError: /proc is not mounted, the object's mode forbids it, or a limit.
    """
    own = Owned()
    own.extend(map(os.open, (f"/proc/self/fd/{descriptor}",), (os.O_RDONLY | os.O_CLOEXEC,)))
    return own


def separate(descriptor: int) -> bool:
    """Give a read-only descriptor an offset and flags of its own; its number stays. False: see `reopen`."""
    try:
        own = reopen(descriptor)
    except OSError:
        return False
    try:
        os.dup2(own[0], descriptor, inheritable=False)
    finally:
        own.close()
    return True
