"""Descriptors of kinds that nobody expects, for each place where one is taken."""

from __future__ import annotations

import ctypes
import fcntl
import os
import pty
import select
import socket
import tempfile
from collections.abc import Callable
from contextlib import ExitStack

_LIBC = ctypes.CDLL(None, use_errno=True)
SIZE = 1 << 20


def _syscall(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _own(stack: ExitStack, *fds: int) -> int:
    """Return the first; all are closed with the stack."""
    for fd in fds:
        stack.callback(os.close, fd)
    return fds[0]


def _sockets(kind: int) -> Callable[[ExitStack], int]:
    def make(stack: ExitStack) -> int:
        left, right = socket.socketpair(socket.AF_UNIX, kind)
        stack.enter_context(right)
        return stack.enter_context(left).fileno()

    return make


def _listener(stack: ExitStack) -> int:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind("")  # a name that the kernel chooses
    listener.listen()
    return listener.fileno()


def _memfd(size: int = SIZE, seals: int = 0, content: bytes = b"") -> Callable[[ExitStack], int]:
    def make(stack: ExitStack) -> int:
        fd = _own(stack, os.memfd_create("foreign", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC))
        os.ftruncate(fd, size)
        os.pwrite(fd, content, 0)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return fd

    return make


def _reopened(flags: int) -> Callable[[ExitStack], int]:
    def make(stack: ExitStack) -> int:
        return _own(stack, os.open(f"/proc/self/fd/{_memfd()(stack)}", flags))

    return make


def _io_uring(stack: ExitStack) -> int:
    return _own(stack, _syscall(425, 4, ctypes.create_string_buffer(120)))


def _file(stack: ExitStack) -> int:
    return stack.enter_context(tempfile.TemporaryFile()).fileno()


def _tty(stack: ExitStack) -> int:
    leader, follower = pty.openpty()
    return _own(stack, follower, leader)


_SHAPE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_ALL = _SHAPE | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
KINDS: dict[str, Callable[[ExitStack], int]] = {
    "end of a pipe that reads": lambda stack: _own(stack, *os.pipe()),
    "end of a pipe that writes": lambda stack: _own(stack, *reversed(os.pipe())),
    "stream socket": _sockets(socket.SOCK_STREAM),
    "datagram socket": _sockets(socket.SOCK_DGRAM),
    "packet socket": _sockets(socket.SOCK_SEQPACKET),
    "listening socket": _listener,
    "TCP socket": lambda stack: stack.enter_context(socket.socket()).fileno(),
    "epoll": lambda stack: stack.enter_context(select.epoll()).fileno(),
    "eventfd": lambda stack: _own(stack, os.eventfd(0)),
    "timerfd": lambda stack: _own(stack, _syscall(283, 1, 0)),
    "signalfd": lambda stack: _own(stack, _syscall(289, -1, ctypes.create_string_buffer(8), 8, 0)),
    "inotify": lambda stack: _own(stack, _syscall(294, 0)),
    "pidfd": lambda stack: _own(stack, os.pidfd_open(os.getpid())),
    "io_uring": _io_uring,
    "O_PATH of a folder": lambda stack: _own(stack, os.open("/", os.O_PATH)),
    "O_PATH of a memfd": _reopened(os.O_PATH),
    "memfd that only writes": _reopened(os.O_WRONLY),
    "folder": lambda stack: _own(stack, os.open("/", os.O_RDONLY | os.O_DIRECTORY)),
    "file": _file,
    "/dev/null": lambda stack: _own(stack, os.open("/dev/null", os.O_RDWR)),
    "/dev/zero": lambda stack: _own(stack, os.open("/dev/zero", os.O_RDWR)),
    "terminal": _tty,
    "memfd without seals": _memfd(),
    "empty memfd": _memfd(0),
    "memfd of the right seals": _memfd(SIZE, _ALL),
    "memfd of a page": _memfd(4096, _ALL),
    "memfd of nonsense": _memfd(SIZE, _ALL, b"\xff" * 4096),
}


def usable() -> list[str]:
    """Return the kinds that this machine has."""
    names = []
    for name, make in KINDS.items():
        with ExitStack() as stack:
            try:
                make(stack)
            except OSError:
                continue
            names.append(name)
    return names


def passable() -> list[str]:
    """Return those of them that the kernel lets a process send: since Linux 6.8 not an io_uring."""
    names = []
    for name in usable():
        with ExitStack() as stack:
            left, right = map(stack.enter_context, socket.socketpair())
            try:
                socket.send_fds(left, [b"x"], [KINDS[name](stack)])
            except OSError:
                continue
            names.append(name)
            for fd in socket.recv_fds(right, 1, 1)[1]:
                os.close(fd)
    return names
