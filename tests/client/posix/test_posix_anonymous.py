"""Anonymous objects, the kernel's and those of the fallback, and their descriptors in other programs."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from posix_support import CREATE, PAGE, SHM, refused
from shmclient import posix
from support import count_descriptors, in_child, wait_until

# The other side of an exchange: the standard library alone, so that both sides do not share a mistake.
PEER = """
import mmap, os, struct, sys
fd = int(sys.argv[1]) if sys.argv[1].isdigit() else os.open(sys.argv[1], os.O_RDWR)
with mmap.mmap(fd, 0) as view:
    number, ratio, text = struct.unpack_from("<qd8s", view)
    struct.pack_into("<qd8s", view, mmap.PAGESIZE, -number, 1 / ratio, text[::-1])
"""
RECEIVER = """
import socket, sys
ours = socket.socket(fileno=int(sys.argv[1]))
_, fds, _, _ = socket.recv_fds(ours, 1, 1)
sys.argv[1] = str(fds[0])
"""
STAT = "import os, sys; print(os.fstat(int(sys.argv[1])).st_ino)"


@pytest.fixture
def fd(two_pages: int) -> int:
    return two_pages


def run(program: str, argument: object, **options: Any) -> str:
    """Run a program in a fresh interpreter; return what it printed, stripped."""
    command = [sys.executable, "-I", "-S", "-c", program, str(argument)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def temporary_names() -> set[str]:
    return {entry for entry in os.listdir(SHM) if entry.startswith(("memfd-", "shm-", "shmhost-test-"))}


def nothing_is_new(before: set[str]) -> Callable[[], bool]:
    """Return whether what was not there is gone: another process may have one for a moment."""
    return lambda: not temporary_names() - before


# --- anonymous objects: F7 to F13, F40


def test_anonymous_object_has_no_name_and_can_be_used() -> None:
    before = temporary_names()
    fd = posix.shm_anonymous()
    posix.ftruncate(fd, PAGE)
    with posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        mapping.buffer[:4] = b"text"
    status = posix.fstat(fd)
    assert (os.pread(fd, 4, 0), status.st_nlink, stat.S_IMODE(status.st_mode)) == (b"text", 0, 0o600)
    posix.close(fd)
    wait_until(nothing_is_new(before))


@pytest.mark.parametrize("inheritable", [True, False])
def test_anonymous_object_is_inherited_unless_told_not_to_be(inheritable: bool) -> None:
    fd = posix.shm_anonymous(inheritable=inheritable)
    assert (posix.fcntl(fd, posix.F_GETFD) & posix.FD_CLOEXEC == 0) is inheritable
    posix.close(fd)
    fd = posix.shm_anonymous()
    assert os.get_inheritable(fd)
    posix.close(fd)


def test_memfd_is_empty_nameless_sealable_and_ends_at_exec_unless_told_otherwise(backend: str) -> None:
    fd = posix.memfd_create("test", backend=backend)
    status = posix.fstat(fd)
    assert (status.st_size, status.st_nlink, posix.get_seals(fd)) == (0, 0, 0)
    assert posix.fcntl(fd, posix.F_GETFD) == posix.FD_CLOEXEC
    posix.close(fd)


def test_memfd_is_the_kernels_where_it_has_them() -> None:
    fd = posix.memfd_create("found by its name")
    assert os.readlink(f"/proc/self/fd/{fd}") == "/memfd:found by its name (deleted)"
    posix.close(fd)


@pytest.mark.parametrize(
    ("flags", "seals"), [(0, posix.F_SEAL_SEAL), (posix.MFD_NOEXEC_SEAL, posix.F_SEAL_EXEC)]
)
def test_flags_decide_which_seals_an_object_starts_with(flags: int, seals: int, backend: str) -> None:
    fd = posix.memfd_create("test", flags, backend=backend)
    assert posix.get_seals(fd) == seals
    posix.close(fd)


def test_unknown_flags_are_refused(backend: str) -> None:
    for flags in (0x20, 0x40000, -1, 1 << 31, 1 << 40, posix.MFD_EXEC | posix.MFD_NOEXEC_SEAL):
        with refused(errno.EINVAL):
            posix.memfd_create("test", flags, backend=backend)


def test_size_of_huge_pages_is_refused_without_huge_pages(backend: str) -> None:
    """The kernel knows these bits beside MFD_HUGETLB alone (mm/memfd.c, sanitize_flags)."""
    with refused(errno.EINVAL):
        posix.memfd_create("test", posix.MFD_HUGE_2MB, backend=backend)


@pytest.mark.parametrize(("kind", "limit"), [("memfd", 249), ("shm", 245)])
def test_memfds_name_has_bytes_up_to_the_limit(kind: str, limit: int) -> None:
    for letter in ("x", b"x"):
        posix.close(posix.memfd_create(letter * limit, backend=kind))
        with refused(errno.EINVAL):
            posix.memfd_create(letter * (limit + 1), backend=kind)


def test_empty_name_is_for_the_kernels_memfd_alone() -> None:
    posix.close(posix.memfd_create("", backend="memfd"))
    with refused(errno.EFAULT):
        posix.memfd_create("", backend="shm")


def test_memfds_name_may_hold_slashes_and_no_zero_byte(backend: str) -> None:
    posix.close(posix.memfd_create("a/b", backend=backend))
    posix.close(posix.memfd_create("\N{SNOWMAN}".encode() + b"\xff", backend=backend))
    for bad in ("a\0b", b"\0"):
        with refused(errno.EINVAL):
            posix.memfd_create(bad, backend=backend)


@pytest.mark.parametrize("bad", ["", "tmpfs", 5])
def test_unknown_backend_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match=f"'memfd' or 'shm', not {bad!r}"):
        posix.memfd_create("test", backend=bad)


def test_concurrent_creates_never_give_the_same_object(backend: str) -> None:
    before, start, fds = temporary_names(), threading.Barrier(200), []

    def create() -> None:
        start.wait(20)
        fds.append(posix.memfd_create("same", backend=backend))

    threads = [threading.Thread(target=create) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({posix.fstat(fd).st_ino for fd in fds}) == 200
    for fd in fds:
        posix.close(fd)
    wait_until(nothing_is_new(before))


def test_descriptors_are_as_many_as_before_after_any_outcome(backend: str, name: str) -> None:
    before = count_descriptors()
    for _ in range(200):
        posix.close(posix.memfd_create("test", backend=backend))
        posix.close(posix.shm_anonymous())
        for bad in (
            lambda: posix.shm_open(name, posix.O_RDWR),
            lambda: posix.memfd_create("\0", backend=backend),
        ):
            with contextlib.suppress(OSError):
                bad()
    assert count_descriptors() == before


def test_full_descriptor_table_is_an_error_that_leaves_no_name(backend: str) -> None:
    before = temporary_names()

    def fill() -> None:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
        for call in (lambda: posix.memfd_create("test", backend=backend), posix.shm_anonymous):
            with refused(errno.EMFILE):
                call()

    assert in_child(fill) == 0
    wait_until(nothing_is_new(before))


# --- descriptors in other programs: F11, F13, F49


def test_program_inherits_the_descriptor_without_cloexec(backend: str) -> None:
    fd = posix.memfd_create("test", posix.MFD_ALLOW_SEALING, backend=backend)
    assert run(STAT, fd, close_fds=False) == str(posix.fstat(fd).st_ino)
    posix.close(fd)


def test_program_does_not_inherit_the_descriptor_with_cloexec(backend: str) -> None:
    fd = posix.memfd_create("test", posix.MFD_CLOEXEC, backend=backend)
    program = "import os, sys\ntry: os.fstat(int(sys.argv[1]))\nexcept OSError as error: print(error.errno)"
    assert run(program, fd, close_fds=False) == str(errno.EBADF)
    posix.close(fd)


def exchange(fd: int, run_peer: Callable[[], object]) -> tuple[int, float, bytes]:
    """Write a structure to the first page, have a peer answer, and return the structure on the second."""
    with posix.mmap(None, 2 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        struct.pack_into("<qd8s", mapping.buffer, 0, 1 << 40, 0.25, b"abcdefgh")
        run_peer()
        return struct.unpack_from("<qd8s", mapping.buffer, PAGE)


def test_child_shares_an_object_whose_descriptor_it_inherits(fd: int) -> None:
    assert exchange(fd, lambda: run(PEER, fd, pass_fds=[fd])) == (-(1 << 40), 4.0, b"hgfedcba")


def test_child_shares_an_object_whose_descriptor_it_is_sent(fd: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
        ours.sendmsg([b"x"], [rights])
        peer = theirs.fileno()
        assert exchange(fd, lambda: run(RECEIVER + PEER, peer, pass_fds=[peer])) == (
            -(1 << 40),
            4.0,
            b"hgfedcba",
        )


def test_processes_exchange_a_structure_by_a_name(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    posix.ftruncate(fd, 2 * PAGE)
    assert exchange(fd, lambda: run(PEER, SHM / name[1:])) == (-(1 << 40), 4.0, b"hgfedcba")
    posix.close(fd)


def test_child_opens_by_name_what_the_parent_made_and_the_other_way_round(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    posix.ftruncate(fd, PAGE)

    def answer() -> None:
        posix.close(fd)
        theirs = posix.shm_open(name, posix.O_RDWR)
        with posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_SHARED, theirs) as mapping:
            assert bytes(mapping.buffer[:4]) == b"ping"
            mapping.buffer[:4] = b"pong"
        posix.shm_unlink(name)
        posix.close(posix.shm_open(name, CREATE, 0o640))

    with posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        mapping.buffer[:4] = b"ping"
        assert in_child(answer) == 0
        assert bytes(mapping.buffer[:4]) == b"pong"
    posix.close(fd)
    fd = posix.shm_open(name, posix.O_RDWR)
    assert stat.S_IMODE(posix.fstat(fd).st_mode) == 0o640
    posix.close(fd)
