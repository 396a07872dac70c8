"""Seals, the kernel's and those that the fallback keeps: adding, size, and what they belong to."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from posix_support import PAGE, refused
from shmclient import posix
from shmclient.posix._emulation import SEALS

ALL = (
    posix.F_SEAL_SEAL
    | posix.F_SEAL_SHRINK
    | posix.F_SEAL_GROW
    | posix.F_SEAL_WRITE
    | posix.F_SEAL_FUTURE_WRITE
)
EACH = [
    posix.F_SEAL_SEAL,
    posix.F_SEAL_SHRINK,
    posix.F_SEAL_GROW,
    posix.F_SEAL_WRITE,
    posix.F_SEAL_FUTURE_WRITE,
]


@pytest.fixture
def fd(two_pages: int) -> int:
    return two_pages


def shared(fd: int, prot: int = posix.PROT_RDWR) -> posix.Mapping:
    return posix.mmap(None, PAGE, prot, posix.MAP_SHARED, fd)


# --- adding: F32, F33, F37


@pytest.mark.parametrize("seal", EACH)
def test_seal_is_there_once_added(seal: int, fd: int) -> None:
    assert posix.get_seals(fd) == 0
    posix.add_seals(fd, seal)
    assert posix.get_seals(fd) == seal


def test_seals_add_up_and_none_goes_away(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_SHRINK)
    posix.add_seals(fd, posix.F_SEAL_GROW | posix.F_SEAL_WRITE)
    posix.add_seals(fd, 0)
    posix.add_seals(fd, posix.F_SEAL_SHRINK)
    assert posix.get_seals(fd) == posix.F_SEAL_SHRINK | posix.F_SEAL_GROW | posix.F_SEAL_WRITE


def test_all_seals_can_be_added_at_once(fd: int) -> None:
    posix.add_seals(fd, ALL)
    assert posix.get_seals(fd) == ALL


def test_no_seal_is_added_after_the_seal_against_seals(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_SEAL | posix.F_SEAL_GROW)
    for seal in (0, *EACH):
        with pytest.raises(PermissionError, match=f"not permitted: seals {seal:#x} for descriptor {fd}"):
            posix.add_seals(fd, seal)
    assert posix.get_seals(fd) == posix.F_SEAL_SEAL | posix.F_SEAL_GROW


@pytest.mark.parametrize("bad", [0x40, 0x1000, -1, 1 << 31, 1 << 40])
def test_unknown_seal_is_refused_with_those_beside_it(bad: int, fd: int) -> None:
    with refused(errno.EINVAL):
        posix.add_seals(fd, bad | posix.F_SEAL_GROW)
    assert posix.get_seals(fd) == 0


def test_read_only_descriptor_adds_no_seal_and_reads_them(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_GROW)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with refused(errno.EPERM):
        posix.add_seals(reader, posix.F_SEAL_SHRINK)
    assert posix.get_seals(reader) == posix.get_seals(fd) == posix.F_SEAL_GROW
    posix.close(reader)


def test_seals_added_by_several_threads_are_all_there(backend: str) -> None:
    """A lost seal is one that its owner relies on in vain."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            fd = posix.memfd_create("test", backend=backend)
            start = threading.Barrier(4)

            def add(seal: int, fd: int = fd, start: threading.Barrier = start) -> None:
                start.wait(20)
                posix.add_seals(fd, seal)

            threads = [threading.Thread(target=add, args=(seal,)) for seal in EACH[1:]]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert posix.get_seals(fd) == ALL & ~posix.F_SEAL_SEAL
            posix.close(fd)
    finally:
        sys.setswitchinterval(interval)


# --- size: F36


def test_shrink_seal_allows_the_same_size_and_more(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_SHRINK)
    with refused(errno.EPERM):
        posix.ftruncate(fd, 2 * PAGE - 1)
    for size in (2 * PAGE, 3 * PAGE):
        posix.ftruncate(fd, size)
        assert posix.fstat(fd).st_size == size
    with refused(errno.EPERM):
        posix.ftruncate(fd, 2 * PAGE)


def test_grow_seal_allows_the_same_size_and_less(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_GROW)
    with refused(errno.EPERM):
        posix.ftruncate(fd, 2 * PAGE + 1)
    for size in (2 * PAGE, PAGE):
        posix.ftruncate(fd, size)
        assert posix.fstat(fd).st_size == size
    with refused(errno.EPERM):
        posix.ftruncate(fd, 2 * PAGE)


# --- what seals belong to


def test_not_sealable_object_has_the_seal_against_seals_and_takes_none(backend: str) -> None:
    fd = posix.memfd_create("test", posix.MFD_CLOEXEC, backend=backend)
    assert posix.get_seals(fd) == posix.F_SEAL_SEAL
    for seal in (posix.F_SEAL_GROW, posix.F_SEAL_SEAL, 0):
        with refused(errno.EPERM):
            posix.add_seals(fd, seal)
    posix.ftruncate(fd, PAGE)
    posix.close(fd)


def test_duplicates_of_a_descriptor_agree(fd: int) -> None:
    other, opened = os.dup(fd), os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    posix.add_seals(other, posix.F_SEAL_SHRINK)
    posix.add_seals(opened, posix.F_SEAL_WRITE)
    assert {posix.get_seals(each) for each in (fd, other, opened)} == {
        posix.F_SEAL_SHRINK | posix.F_SEAL_WRITE
    }
    with refused(errno.EPERM):
        posix.ftruncate(opened, 0)
    with refused(errno.EPERM):
        shared(other)
    posix.close(other)
    posix.close(opened)


def test_seals_outlive_a_duplicate(fd: int) -> None:
    other = os.dup(fd)
    posix.add_seals(other, posix.F_SEAL_GROW)
    posix.close(other)
    assert posix.get_seals(fd) == posix.F_SEAL_GROW


@pytest.fixture
def records() -> Iterator[set[object]]:
    """What was kept before; what is left over, as dup2 and os.close know nothing of it, is dropped."""
    before: set[object] = set(SEALS)
    yield before
    for left in set(SEALS) - before:
        del SEALS[left]


@pytest.mark.parametrize("close", [posix.close, os.close])
@pytest.mark.parametrize("after", ["memfd", "shm"])
def test_number_used_again_has_the_seals_of_its_new_object(
    close: Callable[[int], None], after: str, backend: str, records: set[object]
) -> None:
    old = posix.memfd_create("old", backend=backend)
    posix.add_seals(old, ALL)
    close(old)
    new = posix.memfd_create("new", backend=after)
    assert (new, posix.get_seals(new)) == (old, 0)
    posix.ftruncate(new, PAGE)
    posix.munmap(shared(new))
    posix.close(new)


def test_number_given_to_another_object_has_its_seals(backend: str, records: set[object]) -> None:
    first, second = (posix.memfd_create("test", backend=backend) for _ in range(2))
    posix.add_seals(first, posix.F_SEAL_GROW)
    os.dup2(second, first)
    assert posix.get_seals(first) == 0
    posix.close(first)
    posix.close(second)


def test_what_is_kept_goes_with_the_last_descriptor(records: set[object]) -> None:
    fd = posix.memfd_create("test", backend="shm")
    other = os.dup(fd)
    posix.add_seals(fd, posix.F_SEAL_GROW)
    posix.close(fd)
    assert [SEALS[record] for record in set(SEALS) - records] == [posix.F_SEAL_GROW]
    posix.close(other)
    assert set(SEALS) == records


def test_nothing_is_kept_for_the_kernels_objects(records: set[object]) -> None:
    fd = posix.memfd_create("test", backend="memfd")
    posix.add_seals(fd, posix.F_SEAL_GROW)
    assert set(SEALS) == records
    posix.close(fd)


def test_refused_close_drops_nothing(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_GROW)
    with refused(errno.EBADF):
        posix.close(19_999)
    assert posix.get_seals(fd) == posix.F_SEAL_GROW


# --- what is no sealable object


def test_named_object_takes_no_seals() -> None:
    fd = posix.shm_anonymous()
    assert posix.get_seals(fd) == posix.F_SEAL_SEAL
    with refused(errno.EPERM):
        posix.add_seals(fd, posix.F_SEAL_GROW)
    posix.close(fd)


def test_pipes_and_sockets_have_no_seals() -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    for fd in (reader, writer, ours.fileno()):
        with refused(errno.EINVAL):
            posix.get_seals(fd)
    for fd, code in ((reader, errno.EPERM), (writer, errno.EINVAL), (ours.fileno(), errno.EINVAL)):
        with refused(code):
            posix.add_seals(fd, posix.F_SEAL_GROW)
    ours.close()
    theirs.close()
    os.close(reader)
    os.close(writer)
