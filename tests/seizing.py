"""A process that stands still at each system call of its threads, so that it can be killed there: ptrace(2).

`stepping` has children that run a function of a test. This takes a process that runs already, such as a host.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
from collections.abc import Callable

PEEKUSER, SINGLESTEP, SYSCALL, SEIZE, INTERRUPT, GET_SYSCALL_INFO = 3, 9, 24, 0x4206, 0x4207, 0x420E
TRACESYSGOOD, TRACECLONE, EXITKILL = 1, 8, 1 << 20
WALL, WNOTHREAD = 0x40000000, 0x20000000  # waitpid(2): threads too; and nothing that another thread has made
EVENT_STOP = 128  # of a thread that was interrupted, or is new
SYSCALL_STOP = signal.SIGTRAP | 0x80
ENTRY = 1
# x86-64: where they are in struct user, the instruction that calls the kernel, and the number of futex(2).
RAX, RIP, CALL, FUTEX = 10 * 8, 16 * 8, b"\x0f\x05", 202
can_step = platform.machine() == "x86_64"

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long


class SyscallInfo(ctypes.Structure):
    """The start of struct ptrace_syscall_info."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


def _ptrace(request: int, tid: int, address: int = 0, data: object = 0) -> None:
    if _LIBC.ptrace(request, tid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request}: {os.strerror(number)}")


class Seized:
    """A process whose threads are traced by the thread that makes and uses this, and which it kills.

    `look` is called while a thread stands at the start of a system call, with the number of that.
    """

    def __init__(self, pid: int, *, main_only: bool = False) -> None:
        self.pid = pid
        self.calls = 0  # that were begun since
        self.instructions = 0
        self.is_over = False
        self._memory = -1
        self._threads: set[int] = set()
        while new := self._tids(main_only) - self._threads:
            for tid in new:
                self._seize(tid, 0 if main_only else TRACECLONE)

    def _tids(self, main_only: bool) -> set[int]:
        return {self.pid} if main_only else set(map(int, os.listdir(f"/proc/{self.pid}/task")))

    def _seize(self, tid: int, options: int) -> None:
        self._threads.add(tid)
        _ptrace(SEIZE, tid, data=TRACESYSGOOD | EXITKILL | options)
        _ptrace(INTERRUPT, tid)
        os.waitpid(tid, WALL)
        _ptrace(SYSCALL, tid)

    def run(self, look: Callable[[int], bool]) -> None:
        """Go on until the process has ended, or `look` returns True: then a thread stands still."""
        while not self.is_over:
            try:
                tid, status = os.waitpid(-1, WALL | WNOTHREAD)
            except ChildProcessError:
                self.is_over = True
                return
            if not os.WIFSTOPPED(status):
                self.is_over = tid == self.pid
                continue
            if os.WSTOPSIG(status) == SYSCALL_STOP and (number := self._entered(tid)) is not None:
                self.calls += 1
                if look(number):
                    return
            self._go_on(tid, status)

    def step(self, look: Callable[[], bool]) -> None:
        """Have the main thread do one instruction at a time, until the process has ended, or `look`."""
        while not self.is_over:
            with contextlib.suppress(ProcessLookupError):
                _ptrace(SINGLESTEP, self.pid)
            _, status = os.waitpid(self.pid, WALL)
            self.instructions += 1
            if not os.WIFSTOPPED(status):
                self.is_over = True
            elif look():
                return

    def is_at_call(self) -> bool:
        """Whether the next instruction of the main thread, which stands still, is a system call (x86-64).

        But for futex(2): the fewer instructions a thread does in a second, the more it hands on its locks.
        """
        with contextlib.suppress(OSError):
            if self._memory < 0:
                self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
            is_call = os.pread(self._memory, 2, _LIBC.ptrace(PEEKUSER, self.pid, RIP, None)) == CALL
            return is_call and _LIBC.ptrace(PEEKUSER, self.pid, RAX, None) != FUTEX
        return False

    def go_on(self) -> None:
        """Let the main thread go on from where it stands."""
        with contextlib.suppress(ProcessLookupError):
            _ptrace(SYSCALL, self.pid)

    def kill(self) -> None:
        """End the process by SIGKILL, and return when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while True:
            try:
                tid, status = os.waitpid(-1, WALL | WNOTHREAD)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(status):
                self._go_on(tid, status)
        self.is_over = True
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def _entered(self, tid: int) -> int | None:
        """Return the number of the system call that a thread is about to make; None at its end."""
        info = SyscallInfo()
        with contextlib.suppress(ProcessLookupError):
            _ptrace(GET_SYSCALL_INFO, tid, ctypes.sizeof(info), ctypes.byref(info))
        return info.number if info.op == ENTRY else None

    def _go_on(self, tid: int, status: int) -> None:
        event, number = status >> 16, os.WSTOPSIG(status)
        signal_number = 0 if event or number in (SYSCALL_STOP, signal.SIGTRAP) else number
        with contextlib.suppress(ProcessLookupError):
            _ptrace(SYSCALL, tid, data=signal_number)
