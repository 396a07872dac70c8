"""Size, end and rights of shared memory objects, and arguments that are refused."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import stat
from collections.abc import Callable
from typing import Any

import pytest

from posix_support import CREATE, PAGE, SHM, refused
from shmclient import posix
from support import in_child, needs_root


@pytest.fixture
def fd(two_pages: int) -> int:
    return two_pages


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
