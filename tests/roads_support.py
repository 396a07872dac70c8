"""The roads by which a process could change an object of others, and what must come of each.

`tests/roads` has them as a program, which tries one after the other. The table says what the kernel must
answer, from what the attacker is: with a descriptor that reads or the one that wrote before the publish, as
which user.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from arena_programs import compiled
from victims import Holder, Target

SOURCES = Path(__file__).parent / "roads"
OPEN, PRIVATE, UNTRIED = "open", "private", "untried"
# mm/mmap.c: a shared mapping of a writable descriptor counted as a writable one until Linux 6.7.
MAPS_SEALED = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 7)
_SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
PTRACE_SCOPE = int(_SCOPE.read_text("ascii")) if _SCOPE.exists() else 0
CAP_SYS_PTRACE = 19

# What a sealed object answers: to a descriptor that reads, and to one that writes.
BY_DESCRIPTOR = {
    "pwrite": ("EBADF", "EPERM"),
    "write": ("EBADF", "EPERM"),
    "append": ("EBADF", "EPERM"),
    "aio": ("EBADF", "EPERM"),
    "splice": ("EBADF", "EPERM"),
    "sendfile": ("EBADF", "EPERM"),
    "copy_file_range": ("EBADF", "EPERM"),
    "shrink": ("EINVAL", "EPERM"),
    "grow": ("EINVAL", "EPERM"),
    "holes": ("EBADF", "EPERM"),
    "seals": ("EPERM", "EPERM"),
    "mmap": ("EACCES", "EPERM"),
}
BY_MAPPING = {
    "mprotect": "EACCES",
    "mremap": "EACCES",
    "forked child": "EACCES",
    "MADV_REMOVE": "EACCES",
    "MADV_POPULATE_WRITE": "EINVAL",
    "own /proc/mem": "EIO",
    "poke a child": "EIO",
    "read into it": "EFAULT",
    "vmsplice": "EFAULT",
    "futex": "EFAULT",
    "userfaultfd": "EPERM",
}
# These reach a copy of the attacker's at most, whatever the object is.
HARMLESS = ("page in a pipe", "MADV_DONTNEED", "private mapping", "own /proc/mem, private")
OPTIONAL = ("aio", "userfaultfd", "own /proc/mem, private")  # which a kernel or a sandbox may not have
# By a process that has the object: what all see of it, and what debuggers do. These answer EIO and EFAULT to
# those who may do it, where the object is protected.
BY_FOLDER = ("fd", "map_files", "pidfd_getfd")
BY_DEBUGGER = {
    "/proc/mem": ("EACCES", "EIO"),
    "process_vm_writev": ("EPERM", "EFAULT"),
    "ptrace": ("EPERM", "EIO"),
}
HOLDERS = ("owner", "host")
ROADS = [
    *BY_DESCRIPTOR,
    *BY_MAPPING,
    *HARMLESS,
    *(f"{holder}'s {road}" for holder in HOLDERS for road in (*BY_FOLDER, *BY_DEBUGGER)),
    *("reopen", "O_TRUNC", "file handle", "fchmod", "fchown", "name"),
]


class Attacker(NamedTuple):
    """A user who attacks, and whose folders in /proc he may look into."""

    uid: int
    sees_owner: bool
    sees_host: bool
    is_host: bool  # the object's file is his

    @property
    def is_root(self) -> bool:
        return self.uid == 0


def may_see(uid: int, other: int, is_dumpable: bool = True) -> bool:
    """Whether a user may look into the folder of a process of another: PTRACE_MODE_READ of ptrace(2)."""
    return _has_capability(CAP_SYS_PTRACE) if uid == 0 else uid == other and is_dumpable


def _may_trace(attacker: Attacker, may_see: bool) -> bool:
    """Whether he may also write there: PTRACE_MODE_ATTACH, of a process that is not his child."""
    return may_see and (PTRACE_SCOPE < 3 if attacker.is_root else PTRACE_SCOPE == 0)


def _has_capability(number: int) -> bool:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    (effective,) = (line.split()[1] for line in lines if line.startswith("CapEff"))
    return bool(int(effective, 16) >> number & 1)


def expected(road: str, target: Target, attacker: Attacker, is_writer: bool) -> str:
    """Return what must come of a road: an errno, or one of the three words."""
    if road in HARMLESS:
        return PRIVATE
    if road in BY_DESCRIPTOR:
        return _by_descriptor(road, target, is_writer)
    if road in BY_MAPPING:
        return _by_mapping(road, target, is_writer)
    holder, _, way = road.partition("'s ")
    if holder == "owner":
        return _by_process(way, target, target.owner, attacker, attacker.sees_owner)
    if holder == "host":
        return _by_process(way, target, target.host, attacker, attacker.sees_host)
    return _by_file(road, target, attacker)


def _by_descriptor(road: str, target: Target, is_writer: bool) -> str:
    reads, writes = BY_DESCRIPTOR[road]
    if not is_writer:
        return reads
    if road == "seals":
        return writes
    if road in ("shrink", "grow", "append"):
        is_protected = target.has_sealed_size and not (road == "grow" and target.can_grow)
    else:
        is_protected = target.is_sealed
    return writes if is_protected else OPEN


def _by_mapping(road: str, target: Target, is_writer: bool) -> str:
    if is_writer and not target.is_sealed:
        return OPEN
    return "EPERM" if is_writer and not MAPS_SEALED else BY_MAPPING[road]


def _by_process(way: str, target: Target, holder: Holder, attacker: Attacker, may_see: bool) -> str:
    may_trace = _may_trace(attacker, may_see)
    if way == "fd":
        return _open(target, attacker) if may_see else "EACCES"
    if way == "pidfd_getfd":
        return "EPERM" if not may_trace else _got(target) if holder.can_write else "EBADF"
    if not holder.address:
        return UNTRIED
    if way == "map_files":  # which takes a right over the whole system
        return "EACCES" if not may_see else _open(target, attacker) if attacker.is_root else "EPERM"
    refused, protected = BY_DEBUGGER[way]
    return refused if not may_trace else OPEN if holder.is_writing else protected


def _got(target: Target) -> str:
    """Return what comes of a descriptor that writes."""
    return "EPERM" if target.is_sealed else OPEN


def _open(target: Target, attacker: Attacker) -> str:
    """Return what comes of opening the object once more, for writing."""
    if attacker.is_root:
        return "EPERM" if target.is_sealed else OPEN
    return OPEN if attacker.is_host and not target.has_sealed_size else "EACCES"  # for its mode


def _by_file(road: str, target: Target, attacker: Attacker) -> str:
    owns = attacker.is_root or attacker.is_host
    if road == "name":
        return UNTRIED if not target.path else OPEN if owns else "EACCES"
    if road == "file handle":
        return _open(target, attacker) if attacker.is_root else "EPERM"
    if road == "fchmod" or (road == "fchown" and not attacker.is_host):
        return OPEN if owns and not target.is_sealed else "EPERM"
    if road == "O_TRUNC" and target.has_sealed_size and attacker.is_root:
        return "EPERM"
    return _open(target, attacker)


# --- an attack


class Bystander:
    """What somebody who looks at an object sees of it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._seen = self._look()

    def _look(self) -> tuple[object, ...]:
        status = os.fstat(self._target.reader)
        seals = fcntl.fcntl(self._target.reader, fcntl.F_GET_SEALS)
        content = os.pread(self._target.reader, max(status.st_size, 1), 0)
        return (status.st_mode, status.st_uid, seals, content)

    def has_seen_a_change(self) -> bool:
        """Whether anything is another than at the start, or when this was asked before."""
        before, self._seen = self._seen, self._look()
        if self._seen == before:
            return False
        if not self._target.is_sealed:
            self._restore(before)
        return True

    def _restore(self, before: tuple[object, ...]) -> None:
        content, mode = before[-1], before[0]
        assert isinstance(content, bytes)
        assert isinstance(mode, int)
        os.ftruncate(self._target.writer, len(content))
        os.pwrite(self._target.writer, content, 0)
        os.fchmod(self._target.writer, mode & 0o7777)
        self._seen = self._look()


def attack(target: Target, descriptor: int, uid: int, *roads: str) -> Iterator[tuple[str, str]]:
    """Try roads, or all; yield each, and what came of it, before the next one is tried."""
    program = compiled("roads", folder=SOURCES)
    holders = (number for holder in (target.owner, target.host) for number in holder[:3])
    words = [program, descriptor, *holders, uid, target.path, *roads]
    running = subprocess.Popen(
        list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[descriptor]
    )
    with running, contextlib.suppress(BrokenPipeError):
        assert running.stdin is not None
        assert running.stdout is not None
        for line in running.stdout:
            road, _, outcome = line.strip().partition(": ")
            yield road, outcome
            print(file=running.stdin, flush=True)
    assert running.returncode == 0, (target.name, running.returncode)
