"""The judgements of `doctor`: numbers and text in, a Finding out. Opens nothing."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence

from shmhost.commands.text import format_size
from shmprotocol.kernel.constants import MIB
from shmprotocol.tuples import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "problem"
KERNEL_LEAST = (5, 10)
# Regions that one process may want to hold: each takes 1 or 2 descriptors and 2 mappings of it.
MANY, FEW = 4096, 256
ADDRESSES_LEAST = 256 * MIB  # with less, not even a few regions of 100 MB fit beside the program itself
LOCKED_SMALL = MIB  # 64 KiB before Linux 5.16, 8 MiB since
NO_LIMIT = -1  # RLIM_INFINITY, as the resource module has it
_SEPARATE = "the window cannot be reserved, so each region is mapped alone: its address can be in use by then"
_MAPPING = re.compile(r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) (\S{4})(?: +\S+){3} *(.*)", re.ASCII)


class Finding(NamedTuple):
    """The result of one check. `state` is ok, note or problem; `advice` is empty when it is ok."""

    topic: str
    state: str
    found: str
    advice: str


class Identity(NamedTuple):
    """The identity of this process, as the kernel checks it: effective uid and gid, and the other groups."""

    uid: int
    gid: int
    groups: frozenset[int]


class SocketStatus(NamedTuple):
    """The stat(2) result of a socket file, and the name of its group (the number if it has none)."""

    mode: int
    uid: int
    gid: int
    group: str


def unchecked(topic: str, error: Exception) -> Finding:
    """Return the note of a check that failed to run."""
    why = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.filename and error.strerror:
        why = f"{error.filename}: {error.strerror}"
    advice = "not available to this kernel, container or user; the other checks do not need it"
    return Finding(topic, NOTE, f"could not be checked: {why}", advice)


def kernel(release: str, machine: str, bits: int) -> Finding:
    """Judge the kernel's release and the width of this process's pointers."""
    finding = f"Linux {release:.60} on {machine:.20}, a {bits}-bit process"
    version = re.match(r"(\d{1,4})\.(\d{1,4})", release, re.ASCII)
    if version is None:
        return Finding("kernel", NOTE, f"{finding}: not a version", "Linux 5.10 or newer is needed")
    if (int(version[1]), int(version[2])) < KERNEL_LEAST or bits != 64:
        return Finding("kernel", PROBLEM, finding, "use a 64-bit Python on Linux 5.10 or newer")
    return Finding("kernel", OK, finding, "")


def memfd(with_seal: int, without: int) -> Finding:
    """Judge the errnos (0: it worked) of memfd_create with MFD_NOEXEC_SEAL and without."""
    if not with_seal:
        return Finding("memfd", OK, "memfd_create works, with MFD_NOEXEC_SEAL", "")
    if with_seal == errno.EINVAL and not without:
        finding = "memfd_create does not know MFD_NOEXEC_SEAL (Linux 6.3): regions work without it"
        return Finding("memfd", NOTE, finding, "no action needed")
    return Finding(
        "memfd",
        PROBLEM,
        f"memfd_create fails: {os.strerror(without or with_seal)}",
        "allow memfd_create in the seccomp profile; check ulimit -n and the sysctl vm.memfd_noexec",
    )


def seals(error: int) -> Finding:
    """Judge the errno (0: it worked) of adding F_SEAL_FUTURE_WRITE."""
    if not error:
        return Finding("seals", OK, "F_SEAL_FUTURE_WRITE works", "")
    finding = f"F_SEAL_FUTURE_WRITE (Linux 5.1) fails: {os.strerror(error)}"
    return Finding("seals", NOTE, finding, "seal='writer' is refused here: publish with seal='full'")


def arenas(error: int, board: int) -> Finding:
    """Judge the errno (0: it worked) of making what an arena consists of, and the names of the board."""
    if error:
        finding = f"an arena cannot be made: {os.strerror(error)}"
        advice = "use Linux 5.10 or newer, and allow memfd_create in the seccomp profile"
        return Finding("arenas", NOTE, finding, advice)
    if not board:
        return Finding("arenas", NOTE, "arenas are refused with --board 0", "give the host a --board")
    return Finding("arenas", OK, f"arenas work; the board has {board} lines for them and other names", "")


def held_locks(is_apart: bool) -> Finding:
    """Judge whether threads that clients can hold up have no descriptors but those they work on."""
    if is_apart:
        return Finding("held locks", OK, "whoever holds an object's lock keeps no host from starting", "")
    finding = "pidfd_getfd (Linux 5.6) fails: a client that holds an object's lock can keep a next host away"
    return Finding("held locks", NOTE, finding, "allow pidfd_getfd and close_range in the seccomp profile")


def memfd_policy(value: int) -> Finding:
    """Judge the sysctl vm.memfd_noexec."""
    finding = f"vm.memfd_noexec is {value}"
    if value < 2:
        return Finding("memfd policy", OK, finding, "")
    return Finding(
        "memfd policy",
        NOTE,
        f"{finding}: memfds without MFD_NOEXEC_SEAL are refused; the host's have it",
        "programs that make memfds of their own must pass MFD_NOEXEC_SEAL",
    )


def peer_death(error: int) -> Finding:
    """Judge the errno (0: it worked) of asking a socket for SO_PEERPIDFD."""
    if not error:
        return Finding("peer death", OK, "SO_PEERPIDFD works: the death of a client is detected at once", "")
    return Finding(
        "peer death",
        NOTE,
        f"SO_PEERPIDFD (Linux 6.5) fails: {os.strerror(error)}. A client's death is detected only by EOF",
        "a child that inherits a client's socket keeps its leases alive: close it there, or exec",
    )


def fixed_addresses(is_kept: bool) -> Finding:
    """Judge whether MAP_FIXED_NOREPLACE left an existing mapping alone."""
    if is_kept:
        return Finding("fixed addresses", OK, "MAP_FIXED_NOREPLACE leaves existing mappings alone", "")
    finding = "MAP_FIXED_NOREPLACE (Linux 4.17) replaced a mapping: attaching can destroy memory"
    return Finding("fixed addresses", PROBLEM, finding, "use Linux 5.10 or newer, not an emulation of it")


def open_files(soft: int, hard: int) -> Finding:
    """Judge RLIMIT_NOFILE, in descriptors."""
    finding = f"RLIMIT_NOFILE is {_limit(soft)}, its hard limit {_limit(hard)}"
    advice = "raise it: `ulimit -n 65536`, LimitNOFILE=65536 under systemd, docker --ulimit nofile=65536"
    if soft == NO_LIMIT or soft >= MANY:
        return Finding("open files", OK, finding, "")
    finding += ": a region takes 1 or 2 descriptors in the host, and as many in each client"
    return Finding("open files", PROBLEM if soft < FEW else NOTE, finding, advice)


def address_space(soft: int, used: int, windows: int) -> Finding:
    """Judge RLIMIT_AS against what this process has mapped and the size of the windows, all in bytes."""
    if soft == NO_LIMIT:
        return Finding("address space", OK, "RLIMIT_AS has no limit", "")
    left = max(soft - used, 0)
    finding = (
        f"RLIMIT_AS is {format_size(soft)}, with {format_size(left)} left; the windows take "
        f"{format_size(windows)}"
    )
    if left >= windows:
        return Finding("address space", OK, finding, "")
    state = PROBLEM if left < ADDRESSES_LEAST else NOTE
    advice = "remove it: `ulimit -v unlimited`, LimitAS=infinity; reserved addresses cost no memory"
    return Finding("address space", state, f"{finding}: {_SEPARATE}", advice)


def locked_memory(soft: int) -> Finding:
    """Judge RLIMIT_MEMLOCK, in bytes."""
    if soft == NO_LIMIT or soft >= LOCKED_SMALL:
        size = "no limit" if soft == NO_LIMIT else format_size(soft)
        return Finding("locked memory", OK, f"RLIMIT_MEMLOCK is {size}", "")
    return Finding(
        "locked memory",
        NOTE,
        f"RLIMIT_MEMLOCK is {format_size(soft)}: mlock of a larger region fails",
        "only if you lock regions: `ulimit -l`, LimitMEMLOCK=infinity, or docker's --ulimit memlock=-1",
    )


def mappings(limit: int, used: int) -> Finding:
    """Judge vm.max_map_count, the mappings of a process, against the number in use."""
    regions = max(limit - used, 0) // 2  # one mapping, and the gap behind it is another
    finding = f"vm.max_map_count is {limit}, {used} are in use: a process can map {regions} regions"
    if regions >= MANY:
        return Finding("mappings", OK, finding, "")
    state = PROBLEM if regions < FEW else NOTE
    return Finding("mappings", state, finding, "raise it: sysctl vm.max_map_count=262144")


def memory_budget(budget: int, total: int, limits: Sequence[tuple[int, str]]) -> Finding:
    """Judge the budget against the machine's memory and each (limit, source), all in bytes."""
    limit, source = min(limits, default=(total, ""))
    finding = f"the budget is {format_size(budget)}"
    if limits and budget > limit:
        finding += f", over the limit of this cgroup, {format_size(limit)} ({source})"
        advice = "lower --budget or raise the limit: over the limit, the kernel kills, with no QuotaExceeded"
        return Finding("memory", PROBLEM, finding, advice)
    if budget > total:
        finding += f", and this machine has {format_size(total)}"
        return Finding("memory", NOTE, finding, "lower --budget, unless you intend to use swap")
    where = f"limit of this cgroup: {format_size(limit)}" if limits else "no cgroup limits this process"
    return Finding("memory", OK, f"{finding} of {format_size(total)}; {where}", "")


def container(sign: str, limits: Sequence[tuple[int, str]]) -> Finding:
    """Judge the container: `sign` is the evidence for one, empty outside. Limits are bytes."""
    if not sign:
        return Finding("container", OK, "no container detected", "")
    if limits:
        size = format_size(min(limits)[0])
        finding = f"in a container ({sign}), with {size} of memory"
        advice = "keep the budget and all other memory of the container below that"
        return Finding("container", NOTE, finding, advice)
    advice = "set one (docker run --memory) to protect other containers from this one"
    finding = f"in a container ({sign}), without a memory limit of its own"
    return Finding("container", NOTE, finding, advice)


def huge_pages(text: str) -> Finding:
    """Judge the setting for shared memory: `always within_size advise [never] deny force`."""
    match = re.search(r"\[(\w{1,20})\]", text, re.ASCII)
    if match is None:
        raise ValueError(f"shmem_enabled says {text!r:.60}, with no value selected")
    finding = f"transparent huge pages for shared memory: {match[1]}"
    if match[1] in ("never", "deny"):
        advice = (
            "for large regions: echo within_size > /sys/kernel/mm/transparent_hugepage/shmem_enabled, "
            "or advise, for programs that call madvise(MADV_HUGEPAGE)"
        )
        return Finding("huge pages", NOTE, finding, advice)
    if match[1] in ("always", "force"):
        finding += ": a small region takes 2 MiB of memory, which the budget does not count"
        return Finding("huge pages", NOTE, finding, "use within_size if regions are small")
    return Finding("huge pages", OK, finding, "")


def occupants(maps: str, base: int, size: int) -> list[str]:
    """Return the mappings in a range, from the text of /proc/self/maps; ValueError if that has none."""
    matches = [match for line in maps.splitlines() if (match := _MAPPING.match(line))]
    if not matches:
        raise ValueError(f"/proc/self/maps says {maps!r:.40}, which is not a mapping")
    return [
        f"{match[4] or 'anonymous memory'} ({match[3]}) at 0x{match[1]}-0x{match[2]}"
        for match in matches
        if int(match[1], 16) < base + size and int(match[2], 16) > base
    ]


def window(base: int, size: int, taken: Sequence[str], outcome: str) -> Finding:
    """Judge a window by the mappings in it and its reservation: reserved, taken or limit."""
    finding = f"{base:#x}-{base + size:#x} ({format_size(size)})"
    if taken or outcome == "taken":
        more = f" and {len(taken) - 3} more" if len(taken) > 3 else ""
        finding += f" is taken in this process by {'; '.join(taken[:3]) or 'an unknown mapping'}{more}"
        advice = "give the host another window (--window BASE:SIZE), or do not load the library that is there"
        return Finding("window", PROBLEM, finding, advice)
    if outcome == "limit":
        advice = "see RLIMIT_AS (ulimit -v) and mlockall; on a smaller address space, use --window"
        return Finding("window", NOTE, f"{finding}: {_SEPARATE}", advice)
    return Finding("window", OK, f"{finding} is free, and can be reserved", "")


def overcommit(value: int) -> Finding:
    """Judge the sysctl vm.overcommit_memory."""
    finding = f"vm.overcommit_memory is {value}"
    if value != 2:
        return Finding("overcommit", OK, finding, "")
    return Finding(
        "overcommit",
        NOTE,
        f"{finding}: pages of regions count against CommitLimit: filling one can fail below the budget",
        "keep the budget below CommitLimit less Committed_AS in /proc/meminfo",
    )


def socket_file(path: str, status: SocketStatus | None) -> Finding | None:
    """Judge the file at the socket's path (None: there is none). Return None if it is a socket."""
    if status is None:
        advice = f"start a host (shmhost serve --socket {path}), or name its socket in $SHMHOST_SOCKET"
        return Finding("socket", NOTE, f"no host: there is no {path}", advice)
    if not stat.S_ISSOCK(status.mode):
        finding = f"{path} is not a socket: {stat.filemode(status.mode)}"
        return Finding("socket", PROBLEM, finding, "move it away, or choose another path (--socket)")
    return None


def connection(path: str, status: SocketStatus, who: Identity, error: int) -> Finding:
    """Judge the errno of connecting to a socket, and of waiting for the answer."""
    if error == errno.ECONNREFUSED:
        advice = f"start a host: shmhost serve --socket {path} removes it"
        return Finding("socket", PROBLEM, f"stale socket: no host listens at {path}", advice)
    if error in (errno.EACCES, errno.EPERM):
        return Finding("socket", PROBLEM, *_denied(path, status, who))
    if error in (errno.EAGAIN, errno.ETIMEDOUT):
        finding = f"the host at {path} listens and does not answer"
        return Finding("socket", PROBLEM, finding, "the host is stopped or overloaded: see its log")
    finding = f"connecting to {path} fails: {os.strerror(error)}"
    advice = "see the log of the program that listens there: it is not a shmhost, or it is stopping"
    return Finding("socket", PROBLEM, finding, advice)


def answer(path: str, status: SocketStatus, windows: object, configured: object) -> Finding:
    """Judge the windows that the host at a path announced against those of the settings."""
    finding = f"a host answers at {path} ({_access(status)})"
    if windows == configured:
        return Finding("socket", OK, finding, "")
    finding += ", with windows other than those checked here"
    return Finding("socket", NOTE, finding, "give doctor the settings of that host (--window, --config)")


def expected(regions: int, size: int) -> list[Finding]:
    """Judge how much of a killed host nobody has handed back; nothing, if all is back."""
    if not regions:
        return []
    finding = f"{regions} regions ({format_size(size)}) of a host that was killed have not been handed back"
    advice = "clients that hold them are stopped, or gone: `shmhost rm NAME` gives one up, ten minutes all"
    return [Finding("restart", NOTE, finding, advice)]


def socket_folder(folder: str, mode: int) -> Finding | None:
    """Judge a folder above the socket; None when nobody else can replace what is in it."""
    if not mode & stat.S_IWOTH or mode & stat.S_ISVTX:
        return None
    finding = f"{folder} ({stat.filemode(mode)}) is writable by all: anyone can replace the socket"
    return Finding("socket folder", PROBLEM, finding, f"chmod o-w {folder}")


def _denied(path: str, status: SocketStatus, who: Identity) -> tuple[str, str]:
    finding = (
        f"permission denied: {path} is {_access(status)}; this process is uid {who.uid}, gid {who.gid}, "
        f"groups {', '.join(map(str, sorted(who.groups))) or 'none'}"
    )
    if status.mode & _needed(status, who):
        return finding, "the mode allows it: see the folders above, and the log of the security module"
    if not status.mode & stat.S_IWGRP or who.uid == status.uid:
        return finding, "start the host with another --socket-mode, such as 660 (systemd: SocketMode=)"
    if status.gid == 0:
        return finding, "give the socket a group of its own (systemd: SocketGroup=), and join it"
    return finding, f"join the group: usermod -aG {status.group} USER, and log in again"


def _needed(status: SocketStatus, who: Identity) -> int:
    """Return the bit of the mode that lets this process connect, unix(7)."""
    if who.uid == status.uid:
        return stat.S_IWUSR
    return stat.S_IWGRP if status.gid == who.gid or status.gid in who.groups else stat.S_IWOTH


def _access(status: SocketStatus) -> str:
    return f"{stat.filemode(status.mode)}, uid {status.uid}, gid {status.gid} ({status.group})"


def _limit(value: int) -> str:
    return "no limit" if value == NO_LIMIT else str(value)
