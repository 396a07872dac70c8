"""The socket of a sync channel: threads or greenlets wait on it, and the last of them closes it.

A descriptor must not be closed while somebody waits on it: a thread could go on waiting for whatever file
gets the number next, and a greenlet would never wake. So `close` shuts the socket down, which wakes them
all, and the descriptor goes with the last of them.

Greenlets: in a program that gevent has patched, sockets are gevent's own, and poll(2) lets other greenlets
run. Every call on such a socket must return at once, because a second greenlet that waits in one is an
error there; whoever has to wait polls. A socket of the standard library waits in the kernel instead, with
the kernel's timeout, which saves a poll for each request.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import math
import os
import select
import socket
import struct
import sys
from collections.abc import Callable

from shmprotocol.errors import OutOfMemory
from shmprotocol.wire import descriptors

POLL_MAX_S = 2_000_000.0  # poll(2) takes milliseconds in 31 bits
# Bytes of a buffer that takes a send of 20 KiB, the longest of the fast road, whole or not at all: its half
# less 64 (unix_stream_sendmsg). The usual ones have 208 KiB (net.core.wmem_default).
WHOLE_MIN = 42 * 1024
_NOTHING = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)  # as a number: see wire.descriptors


class Line:
    """A connected socket and an eventfd that wakes its reader; owns both. One thread at a time receives."""

    def __init__(self, sock: socket.socket, timeout_s: float) -> None:
        self._waker = descriptors.Owned()
        self._sock = sock
        self.waits_in_kernel = isinstance(sock, _socket.socket)
        self.sends_whole = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= WHOLE_MIN
        # The callers in a system call. Each enters and then looks at `_is_closing`, which the closer sets
        # before it looks here: at least one of the two sees the other. Adding and discarding are atomic.
        self.users: set[object] = set()  # the fast road's too
        self._is_closing = False
        self._is_interrupted = False
        _open_waker(self._waker, sock)
        sock.settimeout(None if self.waits_in_kernel else 0)
        self.set_timeout(timeout_s)

    def set_timeout(self, timeout_s: float) -> None:
        """Set the time of a `receive` that has no other."""
        self._timeout_s = timeout_s
        limit = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)  # socket(7)

    def receive(
        self, wait_s: float | None, reading: descriptors.Reading, *, or_writable: bool = False
    ) -> tuple[bytes, descriptors.Owned]:
        """Read once, as `descriptors.receive`. `wait_s` None: in the usual time, and not to be woken.

        BlockingIOError: nothing came in time, `wake` was called, or there is room to send, if that is of
        use. Other OSErrors are the end.
        """
        user = self._enter()
        try:
            if wait_s is None and self.waits_in_kernel and not or_writable:
                return self._receive_in_kernel(reading)
            events = select.POLLIN | (select.POLLOUT if or_writable else 0)
            self._poll(events, self._timeout_s if wait_s is None else wait_s)
            return descriptors.receive(self._sock, descriptors.DONTWAIT, reading)
        finally:
            self.leave(user)

    def interrupt(self) -> None:
        """End a `receive` of this thread that goes on after a signal's handler, or the next one."""
        self._is_interrupted = True
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 1))
        self.wake()

    def wait_writable(self, wait_s: float) -> None:
        """Return when a send may succeed, or fail for good, or the time is over."""
        with contextlib.suppress(OSError):
            user = self._enter()
            try:
                self._poll(select.POLLOUT, wait_s)
            finally:
                self.leave(user)

    def wake(self) -> None:
        """End a `receive` that has a time of its own, or the next one."""
        if self._is_closing:  # which ends all of them
            return
        with contextlib.suppress(OSError):
            user = self._enter()
            try:
                os.eventfd_write(self._waker[0], 1)
            finally:
                self.leave(user)

    def has_ended(self) -> bool:
        """Whether the host has closed it, though it may have said more before. Never waits."""
        return has_ended(self._sock)

    def fileno(self) -> int:
        """Return the socket's descriptor, which stays the line's; -1 when it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """End all waiting; close when nobody is in a system call any more. Never waits."""
        self._is_closing = True
        with contextlib.suppress(OSError):  # of a peer that is gone already
            self._sock.shutdown(socket.SHUT_RDWR)
        if not self.users:
            self._close()

    def detach(self) -> None:
        """Close this process's copies after a fork: the connection, and who waits on it, are the parent's."""
        self._is_closing = True
        self._close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # Of a connection that Ctrl-C kept from being made whole, or from being closed.
        if hasattr(self, "_sock") and not is_finalizing():
            self._close()

    def _receive_in_kernel(self, reading: descriptors.Reading) -> tuple[bytes, descriptors.Owned]:
        try:
            return descriptors.receive(self._sock, 0, reading)
        finally:
            if self._is_interrupted:
                self._is_interrupted = False
                with contextlib.suppress(OSError):
                    self.set_timeout(self._timeout_s)

    def _enter(self) -> object:
        user = object()
        self.users.add(user)
        if self._is_closing:
            self.leave(user)
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return user

    def leave(self, user: object) -> None:
        """Note that a caller has left its system call."""
        self.users.discard(user)
        if self._is_closing and not self.users:
            self._close()

    def _close(self) -> None:
        self._sock.close()
        with contextlib.suppress(IndexError):  # the last two users may leave at once
            self._waker.close()

    def _poll(self, events: int, wait_s: float) -> None:
        """Wait for an event of the socket, for the time or POLL_MAX_S; a reader can be woken."""
        poll = select.poll()
        poll.register(self._sock.fileno(), events)
        if events & select.POLLIN:
            poll.register(self._waker[0], select.POLLIN)
        ready = poll.poll(math.ceil(min(wait_s, POLL_MAX_S) * 1000))
        if any(descriptor != self._sock.fileno() for descriptor, _ in ready):
            os.eventfd_read(self._waker[0])


def _open_waker(waker: descriptors.Owned, sock: socket.socket) -> None:
    try:
        waker.extend(map(os.eventfd, (0,), (os.EFD_CLOEXEC | os.EFD_NONBLOCK,)))
    except OSError as error:
        sock.close()
        why = f"no descriptor is left to wait for the host: {error.strerror}"
        raise OutOfMemory(why, errno=error.errno) from None


def has_ended(sock: socket.socket) -> bool:
    """Whether the host has closed a connection, though it may have said more before. Never waits.

    Sends nothing, which fails with EPIPE at once when the peer is gone (unix_stream_sendmsg). It needs no
    turn to read, and does not take unread events for a host that lives, as a look at them would.
    """
    try:
        sock.send(b"", _NOTHING)
    except BlockingIOError:
        return False
    except OSError:  # EPIPE, or closed by another thread
        return True
    return False
