"""A forked child that stands still at each of its system calls, so that it can be ended there: ptrace(2).

A test that has a process die "somewhere" meets the same few places again and again. This one meets each.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
import socket
import threading
from collections.abc import Callable, Iterator

PTRACE_TRACEME, PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_GETREGS, PTRACE_SETREGS = 0, 7, 9, 12, 13
PTRACE_SYSCALL, PTRACE_SETOPTIONS, PTRACE_GETEVENTMSG = 24, 0x4200, 0x4201
TRACESYSGOOD, TRACEFORK, TRACEEXEC, EXITKILL = 1, 2, 16, 1 << 20
EVENT_FORK, EVENT_EXEC = 1, 4
SYSCALL_STOP = signal.SIGTRAP | 0x80
SYS_FORK, CALL_SIZE = 57, 2  # x86-64: the number of fork(2), and bytes of the instruction that calls
RAX, RIP, ORIG_RAX, REGISTERS = 10, 16, 15, 27  # in struct user_regs_struct, <sys/user.h>
can_fork = platform.machine() == "x86_64"

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long
Registers = ctypes.c_ulonglong * REGISTERS


def _ptrace(request: int, pid: int = 0, data: object = 0) -> None:
    if _LIBC.ptrace(request, pid, None, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request}: {os.strerror(number)}")


def begin() -> None:
    """Stand still here, for the first time; what came before is not looked at. To be called by the child."""
    signal.pthread_kill(threading.get_ident(), signal.SIGTRAP)  # SIGSTOP would stop all threads


class Stepped:
    """A child that runs a function, traced from its call of `begin`. A context manager, which kills it.

    Only its main thread is traced; the others go on until it is killed.
    """

    def __init__(self, function: Callable[[], object], *, after_exec: bool = False) -> None:
        self._inherited = _inodes("self")
        self.steps = 0
        self.code: int | None = None  # how it ended, as `waitstatus_to_exitcode` says
        self._is_inside = False  # of a system call
        self._signal = 0
        self._children: list[int] = []
        self.pid = os.fork()
        if not self.pid:
            _run(function)
        self._wait()
        _ptrace(PTRACE_SETOPTIONS, self.pid, TRACESYSGOOD | TRACEFORK | TRACEEXEC | EXITKILL)
        if after_exec:
            while self._resume(PTRACE_CONT) != EVENT_EXEC and self.code is None:
                pass

    def advance(self, count: int) -> bool:
        """Go on to the start of the n-th system call from here; False if the child has ended before."""
        while count and self.code is None:
            if self._resume(PTRACE_SYSCALL) != SYSCALL_STOP:
                continue
            self._is_inside = not self._is_inside
            if self._is_inside:
                self.steps += 1
                count -= 1
        return self.code is None

    def advance_instructions(self, count: int) -> bool:
        """Go on by so many instructions, a system call counts as one; False if the child has ended."""
        while count and self.code is None:
            self._resume(PTRACE_SINGLESTEP)
            self.steps += 1
            count -= 1
        return self.code is None

    def finish(self) -> int:
        """Let it run to its end; return its exit code."""
        while self.code is None:
            self._resume(PTRACE_CONT)
        return self.code

    def kill(self) -> None:
        """End it by SIGKILL. May be called again."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            while self.code is None:
                self._wait()

    def fork(self) -> int:
        """Have it fork where it stands, and stand there again; return the pid of its child, which stands too.

        The child has all its descriptors, and never gets to do anything.
        """
        assert can_fork
        assert self._is_inside
        before, inside = Registers(), Registers()
        _ptrace(PTRACE_GETREGS, self.pid, ctypes.byref(before))
        ctypes.memmove(inside, before, ctypes.sizeof(before))
        inside[ORIG_RAX] = SYS_FORK
        _ptrace(PTRACE_SETREGS, self.pid, ctypes.byref(inside))
        while self._resume(PTRACE_SYSCALL) != SYSCALL_STOP:
            assert self.code is None
        # The call that it stood at is made again.
        before[RAX], before[RIP] = before[ORIG_RAX], before[RIP] - CALL_SIZE
        _ptrace(PTRACE_SETREGS, self.pid, ctypes.byref(before))
        assert self._resume(PTRACE_SYSCALL) == SYSCALL_STOP
        return self._children[-1]

    def kill_children(self) -> None:
        """End what `fork` made. May be called again."""
        while self._children:
            pid = self._children.pop()
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # it is the traced one's child, and not ours
                os.waitpid(pid, 0)

    @contextlib.contextmanager
    def sockets(self) -> Iterator[list[socket.socket]]:
        """Give the sockets that it has from others, the same descriptions: pidfd_getfd(2).

        Not those that this process had, nor streams without a name: an event loop's own.
        """
        with contextlib.ExitStack() as stack:
            pidfd = os.pidfd_open(self.pid)
            stack.callback(os.close, pidfd)
            theirs = _inodes(self.pid)
            numbers = [number for number, inode in theirs.items() if inode not in self._inherited.values()]
            fds = [_getfd(pidfd, number) for number in numbers]
            sockets = [stack.enter_context(socket.socket(fileno=fd)) for fd in fds]
            yield [sock for sock in sockets if sock.type != socket.SOCK_STREAM or _has_name(sock)]

    def _resume(self, request: int) -> int:
        signal_number, self._signal = self._signal, 0
        _ptrace(request, self.pid, signal_number)
        return self._wait()

    def _wait(self) -> int:
        """Return the event, or the signal, that it stands still for; 0 if it has ended."""
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSTOPPED(status):
            self.code = os.waitstatus_to_exitcode(status)
            return 0
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == EVENT_FORK:
            message = ctypes.c_ulong()
            _ptrace(PTRACE_GETEVENTMSG, self.pid, ctypes.byref(message))
            self._children.append(message.value)
            os.waitpid(message.value, 0)  # which has stopped, and stays so
        if event:
            return event
        if number not in (SYSCALL_STOP, signal.SIGTRAP):
            self._signal = number
        return number

    def __enter__(self) -> Stepped:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.kill_children()


def _run(function: Callable[[], object]) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(50)
        _ptrace(PTRACE_TRACEME)
        function()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


def _inodes(pid: int | str) -> dict[int, str]:
    """Return the sockets of a process, by descriptor."""
    folder, sockets = f"/proc/{pid}/fd", {}
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"{folder}/{name}")
            if target.startswith("socket:"):
                sockets[int(name)] = target
    return sockets


def _has_name(sock: socket.socket) -> bool:
    try:
        return bool(sock.getpeername())
    except OSError:  # not connected yet
        return False


def _getfd(pidfd: int, number: int) -> int:
    descriptor = _LIBC.syscall(438, pidfd, number, 0)  # pidfd_getfd
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return int(descriptor)
