"""Which process a number is of, so that a host of later can tell whether that has ended.

A number is used again; with the time of its start it is not. Both count in the pid namespace of who asks, and
the time in its time namespace too: of a host in others nothing can be said.
"""

from __future__ import annotations

import functools
import os

from shmhost.core.processes import Process

_STAT_SIZE = 4096  # bytes, of which it has some 400: one read gets all
_STARTED = 19  # the field behind the name of the program, proc(5)


def process_of(pid: int) -> Process:
    """Return what is known of a process that is there; without /proc, or in no namespace of ours, little."""
    return Process(pid, _started(pid) or 0, _namespace())


def is_gone(process: Process) -> bool:
    """Whether a process that was there has certainly ended."""
    if not (process.pid and process.started and process.namespace == _namespace() != 0):
        return False
    return _started(process.pid) != process.started


def may_be(process: Process, pid: int) -> bool:
    """Whether a process that is there may be the one that was: False if it is certainly another one."""
    if not process.namespace or process.namespace != _namespace():
        return True
    return process.pid == pid and not is_gone(process)


def may_run(pid: int) -> bool:
    """Whether a process is there that is not stopped."""
    state = _state(pid)
    return state is not None and state[:1] not in (b"T", b"Z", b"X")


def _started(pid: int) -> int | None:
    """Return when a process was started, in ticks; None: there is none, or it has ended; 0: not known."""
    try:
        text = _state(pid)
    except OSError:
        return 0
    if text is None:
        return None
    state, *fields = text.split()
    return None if state in b"ZX" else int(fields[_STARTED - 1])


def _state(pid: int) -> bytes | None:
    """Return what proc(5) says of a process, from its state on; None: there is none. OSError."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(b")") + 2 :]


def _read(path: str) -> bytes:
    """Return the content of a short file of /proc. † pathlib takes 6 us more, half as much again."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _STAT_SIZE)
    finally:
        os.close(descriptor)


def _namespace() -> int:
    """Return the number of the namespaces in which numbers and times count; 0: not known."""
    return _namespace_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _namespace_of(_own_pid: int) -> int:
    """Return that of this process, which enters no other. † To ask takes 11 us (2026-11)."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino << 32 | os.stat("/proc/self/ns/time").st_ino
    except OSError:
        return 0
