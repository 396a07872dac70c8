"""Whether this machine and this process can host and read regions: measures; `judge` has the judgements.

Asks only the kernel and the host.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import resource
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

from shmhost.commands.doctor import judge
from shmhost.commands.doctor.judge import Finding, Identity, SocketStatus
from shmhost.commands.text import printable
from shmhost.machine.kernel import memory_limits, read_text, to_number
from shmhost.settings.config import Config
from shmprotocol.abi.header import PAGE
from shmprotocol.errors import AddressConflict, InvalidArgument, ShmError
from shmprotocol.kernel import address_space
from shmprotocol.kernel.constants import F_SEAL_FUTURE_WRITE, MFD_NOEXEC_SEAL, MIB, SO_PEERPIDFD
from shmprotocol.kernel.status import group_name
from shmprotocol.native import builtins
from shmprotocol.wire.paths import socket_path
from shmprotocol.wire.query import Query

TIMEOUT_S = 2.0  # a host answers in microseconds; an activated one has to be started first
_MAX_MAPS = 64 * MIB  # 65530 mappings, the default limit, with paths of 1000 bytes
_CONTAINERS = r"docker|containerd|kubepods|libpod|lxc|crio|machine\.slice"


def examine(config: Config, root: Path = Path("/")) -> list[Finding]:
    """Return what each check found, in a fixed order; one that could not run is a note, never an error.

    Files of /proc and /sys are read below `root`; system calls and the socket are real. Leaves nothing
    open and nothing mapped. A host that does not answer costs 2 s.
    """
    findings: list[Finding] = []
    for topic, check in _CHECKS:
        try:
            findings += check(config, root)
        except (OSError, ValueError, MemoryError, ShmError) as error:
            findings.append(judge.unchecked(topic, error))
    return [Finding(*map(printable, finding)) for finding in findings]


# --- the checks, each: measure, then judge


def _kernel(config: Config, root: Path) -> list[Finding]:
    system = os.uname()
    return [judge.kernel(system.release, system.machine, struct.calcsize("P") * 8)]


def _memfd(config: Config, root: Path) -> list[Finding]:
    return [judge.memfd(_errno_of(_try_memfd, MFD_NOEXEC_SEAL, 0), _errno_of(_try_memfd, 0, 0))]


def _seals(config: Config, root: Path) -> list[Finding]:
    return [judge.seals(_errno_of(_try_memfd, 0, F_SEAL_FUTURE_WRITE))]


def _arenas(config: Config, root: Path) -> list[Finding]:
    return [judge.arenas(_errno_of(_try_arena), config.board)]


def _held_locks(config: Config, root: Path) -> list[Finding]:
    return [judge.held_locks(builtins.can_work_apart())]


def _memfd_policy(config: Config, root: Path) -> list[Finding]:
    return [judge.memfd_policy(_number(root, "proc/sys/vm/memfd_noexec"))]


def _peer_death(config: Config, root: Path) -> list[Finding]:
    return [judge.peer_death(_errno_of(_try_peer_pidfd))]


def _fixed_addresses(config: Config, root: Path) -> list[Finding]:
    return [judge.fixed_addresses(_keeps_mapping())]


def _open_files(config: Config, root: Path) -> list[Finding]:
    return [judge.open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))]


def _address_space(config: Config, root: Path) -> list[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = to_number((read_text(root / "proc/self/statm").split() or [""])[0], root / "proc/self/statm")
    size = pages * resource.getpagesize()
    return [judge.address_space(soft, size, sum(size for _, size in config.windows))]


def _locked_memory(config: Config, root: Path) -> list[Finding]:
    return [judge.locked_memory(resource.getrlimit(resource.RLIMIT_MEMLOCK)[0])]


def _mappings(config: Config, root: Path) -> list[Finding]:
    used = len(read_text(root / "proc/self/maps", _MAX_MAPS).splitlines())
    return [judge.mappings(_number(root, "proc/sys/vm/max_map_count"), used)]


def _memory(config: Config, root: Path) -> list[Finding]:
    text = read_text(root / "proc/meminfo")
    total = re.search(r"^MemTotal: +(\d{1,18}) kB$", text, re.ASCII | re.MULTILINE)
    if total is None:
        raise ValueError(f"{root / 'proc/meminfo'} says {text!r:.40}, and has no MemTotal")
    return [judge.memory_budget(config.budget, int(total[1]) * 1024, memory_limits(root))]


def _container(config: Config, root: Path) -> list[Finding]:
    signs = [f"/{name}" for name in (".dockerenv", "run/.containerenv") if (root / name).exists()]
    if not signs:
        group = re.search(_CONTAINERS, read_text(root / "proc/self/cgroup"))
        signs = [f"{group[0]} in /proc/self/cgroup"] if group else []
    return [judge.container("".join(signs[:1]), memory_limits(root) if signs else [])]


def _huge_pages(config: Config, root: Path) -> list[Finding]:
    return [judge.huge_pages(read_text(root / "sys/kernel/mm/transparent_hugepage/shmem_enabled"))]


def _overcommit(config: Config, root: Path) -> list[Finding]:
    return [judge.overcommit(_number(root, "proc/sys/vm/overcommit_memory"))]


def _windows(config: Config, root: Path) -> list[Finding]:
    maps = read_text(root / "proc/self/maps", _MAX_MAPS)
    return [
        judge.window(base, size, judge.occupants(maps, base, size), _try_reserve(base, size))
        for base, size in config.windows
    ]


def _socket(config: Config, root: Path) -> list[Finding]:
    path = config.socket_path
    try:
        socket_path(path, {})
        status = _socket_status(path)
    except InvalidArgument as error:
        return [Finding("socket", judge.PROBLEM, str(error), "choose a shorter path: --socket")]
    except PermissionError as error:
        advice = "this user needs search permission (x) on each folder above the socket"
        return [Finding("socket", judge.PROBLEM, f"permission denied: {error}", advice)]
    finding = judge.socket_file(path, status)
    if finding is not None or status is None:
        return [finding] if finding else []
    try:
        with Query(path, TIMEOUT_S, "shmhost doctor") as query:
            measured = query.measure()
            rest = judge.expected(measured.expected, measured.expected_bytes)
            return [judge.answer(path, status, query.windows(), config.windows), *rest]
    except OSError as error:  # every error of a Query is one; a stranger's nonsense has no errno
        return [judge.connection(path, status, _identity(), error.errno or errno.EPROTO)]


def _socket_folder(config: Config, root: Path) -> list[Finding]:
    path = Path(config.socket_path)
    # A user who can write to a folder above can also replace the folder of the socket.
    folders = [folder for folder in Path(os.path.realpath(path)).parents if folder.exists()]
    bad = [
        finding for folder in folders if (finding := judge.socket_folder(str(folder), folder.stat().st_mode))
    ]
    return bad[:1] or [Finding("socket folder", judge.OK, f"{path.parent}: not writable by all", "")]


_Check = Callable[[Config, Path], Sequence[Finding]]
_CHECKS: tuple[tuple[str, _Check], ...] = (
    ("kernel", _kernel),
    ("memfd", _memfd),
    ("seals", _seals),
    ("arenas", _arenas),
    ("held locks", _held_locks),
    ("memfd policy", _memfd_policy),
    ("peer death", _peer_death),
    ("fixed addresses", _fixed_addresses),
    ("open files", _open_files),
    ("address space", _address_space),
    ("locked memory", _locked_memory),
    ("mappings", _mappings),
    ("memory", _memory),
    ("container", _container),
    ("huge pages", _huge_pages),
    ("overcommit", _overcommit),
    ("window", _windows),
    ("socket", _socket),
    ("socket folder", _socket_folder),
)


# --- measuring


def _errno_of(function: Callable[..., object], *arguments: object) -> int:
    """Call a function; return the errno of its OSError, 0 without one."""
    try:
        function(*arguments)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _try_memfd(flags: int, seals: int) -> None:
    descriptor = os.memfd_create("shmhost:doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags)
    try:
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    finally:
        os.close(descriptor)


def _try_arena() -> None:
    """Do what an arena relies on: a writable mapping outlives the seal, and no other can be made."""
    with contextlib.ExitStack() as stack:
        for sock in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET):
            stack.enter_context(sock)
        descriptor = os.memfd_create("shmhost:doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        stack.callback(os.close, descriptor)
        os.ftruncate(descriptor, PAGE)
        mapping = stack.enter_context(mmap.mmap(descriptor, PAGE))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SHRINK)
        mapping[0] = 1
        if not _errno_of(os.pwrite, descriptor, b"x", 0):
            raise OSError(errno.ENOTSUP, "F_SEAL_FUTURE_WRITE protects nothing")


def _try_peer_pidfd() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))


def _keeps_mapping() -> bool:
    """Try to reserve the address of a page of our own; return whether that page is still there."""
    with mmap.mmap(-1, PAGE) as page:
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        try:
            if not address_space.reserve(address, PAGE):
                raise OSError(errno.ENOMEM, "no address space is left")
        except AddressConflict:
            return True
        return False  # the reservation replaced our page, and is unmapped with it


def _try_reserve(base: int, size: int) -> str:
    """Reserve a range and give it back: `reserved`, `taken`, or `limit` when a limit forbids it."""
    try:
        if not address_space.reserve(base, size):
            return "limit"
    except AddressConflict:
        return "taken"
    address_space.unmap(base, size, 0)
    return "reserved"


def _socket_status(path: str) -> SocketStatus | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    group = group_name(status.st_gid) or str(status.st_gid)
    return SocketStatus(status.st_mode, status.st_uid, status.st_gid, group)


def _identity() -> Identity:
    return Identity(os.geteuid(), os.getegid(), frozenset(os.getgroups()))


def _number(root: Path, name: str) -> int:
    return to_number(read_text(root / name).strip(), root / name)
