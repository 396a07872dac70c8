"""Shared memory objects, named and anonymous: the kernel's memfd, and the fallback for systems without."""

from __future__ import annotations

import array
import contextlib
import errno
import mmap
import os
import resource
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posix_support import PAGE, SHM, refused
from shmclient import posix
from support import count_descriptors, in_child, needs_root, wait_until

CREATE = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL
LONGEST = posix.NAME_MAX - 1

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


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


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


# --- named objects: F1 to F6, F42


def test_object_is_created_under_its_name_and_opened_by_it(name: str) -> None:
    first = posix.shm_open(name, CREATE)
    second = posix.shm_open(name, posix.O_RDWR)
    os.pwrite(first, b"content", 0)
    assert os.pread(second, 10, 0) == b"content"
    assert os.fstat(first).st_ino == (SHM / name[1:]).stat().st_ino
    posix.close(first)
    posix.close(second)


@pytest.mark.parametrize("mode", [0, 0o400, 0o600, 0o640, 0o644, 0o666, 0o777])
def test_mode_at_creation_is_what_fstat_shows(mode: int, name: str, no_umask: None) -> None:
    fd = posix.shm_open(name, CREATE, mode)
    status = posix.fstat(fd)
    posix.close(fd)
    assert (posix.S_ISREG(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, mode)


def test_mode_is_private_unless_given(name: str, no_umask: None) -> None:
    fd = posix.shm_open(name, CREATE)
    mode = stat.S_IMODE(posix.fstat(fd).st_mode)
    posix.close(fd)
    assert mode == 0o600


def test_umask_takes_bits_off_the_mode(name: str, no_umask: None) -> None:
    os.umask(0o027)
    fd = posix.shm_open(name, CREATE, 0o666)
    mode = stat.S_IMODE(posix.fstat(fd).st_mode)
    posix.close(fd)
    assert mode == 0o640


def test_existing_name_is_refused_when_it_must_be_new(name: str) -> None:
    posix.close(posix.shm_open(name, CREATE))
    with pytest.raises(FileExistsError, match=f"shm_open of '{name}'"):
        posix.shm_open(name, CREATE)
    posix.close(posix.shm_open(name, posix.O_RDWR | posix.O_CREAT))


def test_missing_name_is_refused_with_help(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"shm_open of '{name}'.*Pass O_CREAT"):
        posix.shm_open(name, posix.O_RDWR)
    with pytest.raises(FileNotFoundError, match=f"shm_unlink of '{name}'"):
        posix.shm_unlink(name)


def test_existing_object_is_emptied_by_o_trunc(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    posix.ftruncate(fd, PAGE)
    posix.close(posix.shm_open(name, posix.O_RDWR | posix.O_TRUNC))
    assert posix.fstat(fd).st_size == 0
    posix.close(fd)


def test_descriptor_follows_no_link_and_ends_at_exec(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    assert posix.fcntl(fd, posix.F_GETFL) & posix.O_NOFOLLOW
    assert posix.fcntl(fd, posix.F_GETFD) == posix.FD_CLOEXEC
    posix.close(fd)


@pytest.mark.parametrize(
    "flags", [posix.O_RDONLY, posix.O_RDWR, posix.O_RDWR | posix.O_CREAT | posix.O_TRUNC]
)
def test_symbolic_link_is_refused_and_its_target_unharmed(flags: int, name: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"content")
    (SHM / name[1:]).symlink_to(target)
    with refused(errno.ELOOP):
        posix.shm_open(name, flags)
    assert target.read_bytes() == b"content"


def test_dangling_link_creates_nothing(name: str, tmp_path: Path) -> None:
    (SHM / name[1:]).symlink_to(tmp_path / "target")
    with refused(errno.ELOOP):
        posix.shm_open(name, posix.O_RDWR | posix.O_CREAT)
    assert not (tmp_path / "target").exists()


@needs_root
def test_object_of_another_user_is_refused(name: str) -> None:
    posix.close(posix.shm_open(name, CREATE, 0o600))

    def open_it() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with pytest.raises(PermissionError, match=f"Permission denied: shm_open of '{name}'"):
            posix.shm_open(name, posix.O_RDONLY)

    assert in_child(open_it) == 0


def test_memory_of_an_unlinked_name_lives_until_its_descriptor_is_closed(name: str) -> None:
    old = posix.shm_open(name, CREATE)
    os.pwrite(old, b"content", 0)
    posix.shm_unlink(name)
    with refused(errno.ENOENT):
        posix.shm_unlink(name)
    new = posix.shm_open(name, CREATE)
    assert (os.pread(old, 10, 0), os.pread(new, 10, 0)) == (b"content", b"")
    assert posix.fstat(old).st_ino != posix.fstat(new).st_ino
    posix.close(old)
    posix.close(new)


# --- names: F3


@pytest.mark.parametrize("slashes", ["", "/", "///"])
def test_leading_slashes_of_a_name_do_not_count(slashes: str, name: str) -> None:
    posix.close(posix.shm_open(name, CREATE))
    posix.shm_unlink(slashes + name[1:])
    assert not (SHM / name[1:]).exists()


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_name_is_text_bytes_or_a_path(kind: Callable[[str], Any], name: str) -> None:
    posix.close(posix.shm_open(kind(name), CREATE))
    posix.shm_unlink(kind(name))


@pytest.mark.parametrize("letter", ["x", "é"])
def test_name_may_have_bytes_up_to_the_limit(letter: str, name: str) -> None:
    longest = (name[1:] + letter * LONGEST).encode()[:LONGEST].decode(errors="ignore")
    posix.close(posix.shm_open(longest, CREATE))
    assert (SHM / longest).exists()
    posix.shm_unlink(longest)


BAD_NAMES = [
    "",
    "/",
    "///",
    ".",
    "..",
    "/.",
    "//..",
    "a/b",
    "/a/b",
    "a/",
    "../a",
    "a\0b",
    "\0",
    b"",
    b"/a/b",
    b"\0",
]
TOO_LONG = ["x" * (LONGEST + 1), "/" + "x" * (LONGEST + 1), b"x" * (LONGEST + 1), "é" * 128, "x" * 100_000]


@pytest.mark.parametrize("bad", [*BAD_NAMES, *TOO_LONG], ids=lambda bad: repr(bad)[:12])
def test_bad_name_is_refused_and_nothing_is_created(bad: str | bytes) -> None:
    before = set(os.listdir(SHM))
    with refused(errno.EINVAL):
        posix.shm_open(bad, CREATE)
    with refused(errno.EINVAL):
        posix.shm_unlink(bad)
    assert not {entry for entry in set(os.listdir(SHM)) - before if entry in ("a", "b") or entry[0] == "x"}


@pytest.mark.parametrize("bad", [5, None, bytearray(b"name"), 1.5, ["name"]])
def test_name_of_another_type_is_a_type_error(bad: Any) -> None:
    for call in (
        lambda: posix.shm_open(bad, CREATE),
        lambda: posix.shm_unlink(bad),
        lambda: posix.memfd_create(bad, backend="memfd"),
        lambda: posix.memfd_create(bad, backend="shm"),
    ):
        with pytest.raises(TypeError):
            call()


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


# --- size: F14, F15, F17


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, 2 * PAGE, 5 * PAGE])
def test_size_is_what_fstat_shows_and_new_bytes_are_zero(size: int, fd: int) -> None:
    os.pwrite(fd, b"\xff" * 2 * PAGE, 0)
    posix.ftruncate(fd, size)
    status = posix.fstat(fd)
    assert (status.st_size, status.st_uid, status.st_gid) == (size, os.geteuid(), os.getegid())
    posix.ftruncate(fd, 6 * PAGE)
    assert os.pread(fd, 7 * PAGE, 0) == (b"\xff" * 2 * PAGE)[:size].ljust(6 * PAGE, b"\0")


def test_present_size_is_allowed_when_every_other_is_sealed_off(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_SHRINK | posix.F_SEAL_GROW)
    posix.ftruncate(fd, 2 * PAGE)
    for size in (0, 2 * PAGE - 1, 2 * PAGE + 1, 5 * PAGE):
        with pytest.raises(PermissionError, match="Operation not permitted: ftruncate"):
            posix.ftruncate(fd, size)
    assert posix.fstat(fd).st_size == 2 * PAGE


@pytest.mark.parametrize(
    ("length", "code"),
    [(-1, errno.EINVAL), (-(1 << 80), errno.EINVAL), (1 << 63, errno.EOVERFLOW), (1 << 80, errno.EOVERFLOW)],
)
def test_bad_size_is_refused_and_the_object_keeps_its_own(length: int, code: int, fd: int) -> None:
    with refused(code):
        posix.ftruncate(fd, length)
    assert posix.fstat(fd).st_size == 2 * PAGE


def test_size_over_the_limit_of_the_process_is_refused(fd: int) -> None:
    def grow() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * PAGE, 4 * PAGE))
        posix.ftruncate(fd, 4 * PAGE)
        with refused(errno.EFBIG):
            posix.ftruncate(fd, 4 * PAGE + 1)

    assert in_child(grow) == 0


def test_read_only_descriptor_changes_no_size(fd: int) -> None:
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with refused(errno.EINVAL):
        posix.ftruncate(reader, 0)
    posix.close(reader)


# --- the end: F16


def test_second_close_is_refused(backend: str) -> None:
    fd = posix.memfd_create("test", backend=backend)
    posix.close(fd)
    with refused(errno.EBADF):
        posix.close(fd)


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_close_works_when_no_descriptor_is_left(backend: str) -> None:
    def child() -> None:
        fd = posix.memfd_create("test", backend=backend)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, fd + 1))
        posix.close(fd)
        with refused(errno.EBADF):
            posix.close(fd)

    assert in_child(child) == 0


def test_close_leaves_duplicates_open(fd: int) -> None:
    other = os.dup(fd)
    posix.close(other)
    assert posix.fstat(fd).st_size == 2 * PAGE


# --- rights: F18, F19, F41


def test_mode_is_changed(fd: int) -> None:
    posix.fchmod(fd, 0o640)
    assert stat.S_IMODE(posix.fstat(fd).st_mode) == 0o640


@needs_root
def test_owner_is_changed(fd: int) -> None:
    posix.fchown(fd, 12345, 54321)
    status = posix.fstat(fd)
    assert (status.st_uid, status.st_gid) == (12345, 54321)


def test_owner_may_be_left_as_it_is(fd: int) -> None:
    posix.fchown(fd, -1, -1)
    assert posix.fstat(fd).st_uid == os.geteuid()


def test_flag_of_the_descriptor_goes_forth_and_back(fd: int) -> None:
    posix.fcntl(fd, posix.F_SETFD, 0)
    assert posix.fcntl(fd, posix.F_GETFD) == 0
    posix.fcntl(fd, posix.F_SETFD, posix.FD_CLOEXEC)
    assert posix.fcntl(fd, posix.F_GETFD) == posix.FD_CLOEXEC


def test_read_only_descriptor_is_mapped_for_reading_alone(name: str) -> None:
    fd = posix.shm_open(name, CREATE)
    posix.ftruncate(fd, PAGE)
    os.pwrite(fd, b"text", 0)
    reader = posix.shm_open(name, posix.O_RDONLY)
    for prot in (posix.PROT_WRITE, posix.PROT_RDWR):
        with pytest.raises(PermissionError, match="Permission denied: mmap"):
            posix.mmap(None, PAGE, prot, posix.MAP_SHARED, reader)
    with posix.mmap(None, PAGE, posix.PROT_READ, posix.MAP_SHARED, reader) as mapping:
        assert bytes(mapping.buffer[:4]) == b"text"
        with pytest.raises(PermissionError, match="Permission denied: mprotect"):
            posix.mprotect(mapping, posix.PROT_RDWR)
    with posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_PRIVATE, reader) as mapping:
        mapping.buffer[:4] = b"mine"
    assert os.pread(fd, 4, 0) == b"text"
    posix.close(fd)
    posix.close(reader)


# --- bad arguments

BY_DESCRIPTOR: dict[str, Callable[[Any], object]] = {
    "ftruncate": lambda fd: posix.ftruncate(fd, 0),
    "close": posix.close,
    "add_seals": lambda fd: posix.add_seals(fd, posix.F_SEAL_SEAL),
    "get_seals": posix.get_seals,
    "mmap": lambda fd: posix.mmap(None, PAGE, posix.PROT_READ, posix.MAP_SHARED, fd),
}
STANDARD: dict[str, Callable[[Any], object]] = {
    "fstat": posix.fstat,
    "fchmod": lambda fd: posix.fchmod(fd, 0o600),
    "fchown": lambda fd: posix.fchown(fd, -1, -1),
    "fcntl": lambda fd: posix.fcntl(fd, posix.F_GETFD),
}


@pytest.mark.parametrize("call", BY_DESCRIPTOR)
def test_bad_descriptor_is_refused_by_its_number(call: str) -> None:
    for bad in (-1, 19_999, (1 << 31) - 1, 1 << 31, 1 << 40, -(1 << 40)):
        with pytest.raises(OSError, match=rf"Bad file descriptor: .*{bad}.*/proc/self/fd") as caught:
            BY_DESCRIPTOR[call](bad)
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize("call", BY_DESCRIPTOR)
def test_descriptor_of_another_type_is_a_type_error(call: str) -> None:
    bads: list[Any] = ["3", None, 3.0, b"3", [3]]
    for bad in bads:
        with pytest.raises(TypeError, match=f"a descriptor is an int, not a {type(bad).__name__}"):
            BY_DESCRIPTOR[call](bad)


@pytest.mark.parametrize("call", STANDARD)
def test_bad_descriptor_is_refused_by_the_standard_library(call: str) -> None:
    with pytest.raises((OSError, ValueError), match=r"Bad file descriptor|negative integer"):
        STANDARD[call](-1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        STANDARD[call](19_999)


@pytest.mark.parametrize("bad", ["1", None, 1.0])
def test_number_of_another_type_is_a_type_error(bad: Any, fd: int, backend: str, name: str) -> None:
    for call in (
        lambda: posix.ftruncate(fd, bad),
        lambda: posix.memfd_create("test", bad, backend=backend),
        lambda: posix.shm_open(name, bad),
        lambda: posix.shm_open(name, CREATE, bad),
        lambda: posix.add_seals(fd, bad),
    ):
        with pytest.raises(TypeError):
            call()
    assert not (SHM / name[1:]).exists()


@pytest.mark.parametrize("bad", [-1, 1 << 31, 1 << 40])
def test_flags_and_modes_that_no_c_int_holds_are_refused(bad: int, name: str) -> None:
    with refused(errno.EINVAL):
        posix.shm_open(name, bad)
    with refused(errno.EINVAL):
        posix.shm_open(name, CREATE, bad)
    assert not (SHM / name[1:]).exists()


def test_object_is_mapped_by_the_standard_library_too(fd: int) -> None:
    with (
        mmap.mmap(fd, 2 * PAGE) as theirs,
        posix.mmap(None, PAGE, posix.PROT_READ, posix.MAP_SHARED, fd, PAGE) as ours,
    ):
        theirs[PAGE : PAGE + 4] = b"text"
        assert bytes(ours.buffer[:4]) == b"text"
