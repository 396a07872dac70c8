"""Seals, the kernel's and those that the fallback keeps: what holds for both, and where they end."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from posix_support import PAGE, refused
from shmclient import posix
from shmclient.posix._emulation import SEALS
from support import in_child

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
WRITING = [posix.F_SEAL_WRITE, posix.F_SEAL_FUTURE_WRITE]
KERNEL = tuple(map(int, os.uname().release.split(".")[:2]))
# mm/mmap.c: a shared mapping of a writable descriptor counted as a writable one until Linux 6.7.
read_only_is_allowed = pytest.mark.skipif(
    KERNEL < (6, 7), reason="Linux before 6.7 refuses read-only mappings too"
)


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


# --- writing: F34, F35, F38, F39


@pytest.mark.parametrize("seal", WRITING)
def test_write_seal_refuses_new_writable_mappings(seal: int, fd: int) -> None:
    posix.add_seals(fd, seal)
    for prot in (posix.PROT_WRITE, posix.PROT_RDWR):
        for flags in (posix.MAP_SHARED, posix.MAP_SHARED_VALIDATE):
            with pytest.raises(PermissionError, match="Operation not permitted: mmap"):
                posix.mmap(None, PAGE, prot, flags, fd)


@read_only_is_allowed
@pytest.mark.parametrize("seal", WRITING)
def test_write_seal_allows_read_only_mappings(seal: int, fd: int) -> None:
    os.pwrite(fd, b"text", 0)
    posix.add_seals(fd, seal)
    with shared(fd, posix.PROT_READ) as mapping:
        assert bytes(mapping.buffer[:4]) == b"text"


def test_write_seal_allows_mappings_of_a_read_only_descriptor(fd: int) -> None:
    os.pwrite(fd, b"text", 0)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with shared(reader, posix.PROT_READ) as mapping:
        assert bytes(mapping.buffer[:4]) == b"text"
    posix.close(reader)


@pytest.mark.parametrize("seal", WRITING)
def test_write_seal_allows_private_mappings_that_are_written(seal: int, fd: int) -> None:
    os.pwrite(fd, b"text", 0)
    posix.add_seals(fd, seal)
    with posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_PRIVATE, fd) as mapping:
        assert bytes(mapping.buffer[:4]) == b"text"
        mapping.buffer[:4] = b"mine"
    assert os.pread(fd, 4, 0) == b"text"


def test_write_seal_is_busy_while_a_writable_mapping_lives(fd: int) -> None:
    mapping = shared(fd)
    with pytest.raises(
        OSError, match=f"busy: seals 0x8 for descriptor {fd} .*{mapping.address:#x}.*rw-"
    ) as caught:
        posix.add_seals(fd, posix.F_SEAL_WRITE)
    assert (caught.value.errno, posix.get_seals(fd)) == (errno.EBUSY, 0)
    posix.munmap(mapping)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    assert posix.get_seals(fd) == posix.F_SEAL_WRITE


def test_write_seal_is_busy_as_long_as_one_of_several_mappings_lives(fd: int) -> None:
    mappings = [shared(fd) for _ in range(3)]
    for mapping in mappings:
        with refused(errno.EBUSY):
            posix.add_seals(fd, posix.F_SEAL_WRITE)
        posix.munmap(mapping)
    posix.add_seals(fd, posix.F_SEAL_WRITE)


def test_write_seal_is_busy_while_a_mapping_inside_of_another_lives(fd: int) -> None:
    anonymous = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
    outer = posix.mmap(None, 4 * PAGE, posix.PROT_NONE, anonymous)
    inner = posix.mmap(outer.address + PAGE, PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd, destroys=outer)
    with pytest.raises(OSError, match=f"busy: .*{inner.address:#x}"):
        posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.munmap(inner)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.munmap(outer)


def test_write_seal_is_busy_while_a_mapping_may_yet_become_writable(fd: int) -> None:
    """A shared mapping of a writable descriptor counts whatever it allows now: mprotect could allow more."""
    mapping = shared(fd, posix.PROT_READ)
    with pytest.raises(OSError, match=f"busy: .*{mapping.address:#x}"):
        posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.mprotect(mapping, posix.PROT_RDWR)
    posix.munmap(mapping)
    posix.add_seals(fd, posix.F_SEAL_WRITE)


def test_write_seal_is_busy_while_one_page_of_a_mapping_is_writable(fd: int) -> None:
    mapping = posix.mmap(None, 2 * PAGE, posix.PROT_READ, posix.MAP_SHARED, fd)
    posix.mprotect(mapping.buffer[PAGE:], posix.PROT_RDWR)
    with refused(errno.EBUSY):
        posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.munmap(mapping)


def test_write_seal_is_not_busy_for_what_cannot_be_written(fd: int) -> None:
    """Private memory, a read-only descriptor, and another object."""
    other = posix.memfd_create("other", backend="shm")
    posix.ftruncate(other, PAGE)
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    mappings = [
        posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_PRIVATE, fd),
        shared(reader, posix.PROT_READ),
        shared(other),
    ]
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    assert posix.get_seals(fd) == posix.F_SEAL_WRITE
    for mapping in mappings:
        posix.munmap(mapping)
    posix.close(reader)
    posix.close(other)


def test_busy_write_seal_takes_those_beside_it_along(fd: int) -> None:
    with shared(fd):
        with refused(errno.EBUSY):
            posix.add_seals(fd, posix.F_SEAL_WRITE | posix.F_SEAL_GROW)
        assert posix.get_seals(fd) == 0


def test_collected_mapping_is_no_longer_busy(fd: int) -> None:
    mapping = shared(fd)
    view = mapping.buffer
    del mapping
    with refused(errno.EBUSY):
        posix.add_seals(fd, posix.F_SEAL_WRITE)
    del view
    posix.add_seals(fd, posix.F_SEAL_WRITE)


def test_future_write_seal_lets_the_old_mapping_write(fd: int) -> None:
    with shared(fd) as mapping:
        posix.add_seals(fd, posix.F_SEAL_FUTURE_WRITE)
        mapping.buffer[:4] = b"text"
        with refused(errno.EPERM):
            shared(fd)
    assert os.pread(fd, 4, 0) == b"text"


def test_old_mapping_may_be_made_writable_again_under_the_future_write_seal(fd: int) -> None:
    with shared(fd) as mapping:
        posix.add_seals(fd, posix.F_SEAL_FUTURE_WRITE)
        posix.mprotect(mapping, posix.PROT_READ)
        posix.mprotect(mapping, posix.PROT_RDWR)
        mapping.buffer[:4] = b"text"
    assert os.pread(fd, 4, 0) == b"text"


@read_only_is_allowed
@pytest.mark.parametrize("seal", WRITING)
def test_read_only_mapping_of_a_sealed_object_never_becomes_writable(seal: int, fd: int) -> None:
    posix.add_seals(fd, seal)
    with posix.mmap(None, 2 * PAGE, posix.PROT_READ, posix.MAP_SHARED, fd) as mapping:
        for target in (mapping, mapping.buffer[PAGE:]):
            for prot in (posix.PROT_WRITE, posix.PROT_RDWR):
                with pytest.raises(PermissionError, match="Permission denied: mprotect"):
                    posix.mprotect(target, prot)
        del target
        posix.mprotect(mapping, posix.PROT_NONE)
        posix.mprotect(mapping, posix.PROT_READ)


@read_only_is_allowed
def test_read_only_mapping_stays_so_after_the_last_descriptor_is_closed(backend: str) -> None:
    fd = posix.memfd_create("test", backend=backend)
    posix.ftruncate(fd, PAGE)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    with shared(fd, posix.PROT_READ) as mapping:
        posix.close(fd)
        with pytest.raises(PermissionError, match="Permission denied: mprotect"):
            posix.mprotect(mapping, posix.PROT_RDWR)


def test_private_mapping_of_a_sealed_object_may_become_writable(fd: int) -> None:
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    with posix.mmap(None, PAGE, posix.PROT_READ, posix.MAP_PRIVATE, fd) as mapping:
        posix.mprotect(mapping, posix.PROT_RDWR)
        mapping.buffer[:4] = b"mine"
    assert os.pread(fd, 4, 0) == bytes(4)


# --- mappings of others: the kernel knows them, this process does not


def test_kernel_counts_a_mapping_of_another_process() -> None:
    fd = posix.memfd_create("test", backend="memfd")
    posix.ftruncate(fd, PAGE)
    mapping = shared(fd)

    def seal() -> None:
        posix.munmap(mapping)
        with pytest.raises(OSError, match=r"busy: .*no mapping of this process.*"):
            posix.add_seals(fd, posix.F_SEAL_WRITE)

    assert in_child(seal) == 0
    assert posix.get_seals(fd) == 0
    posix.munmap(mapping)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.close(fd)


def test_kernel_counts_a_mapping_of_the_standard_library() -> None:
    fd = posix.memfd_create("test", backend="memfd")
    posix.ftruncate(fd, PAGE)
    with mmap.mmap(fd, PAGE), refused(errno.EBUSY):
        posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.add_seals(fd, posix.F_SEAL_WRITE)
    posix.close(fd)


def test_seal_of_a_child_is_the_parents_where_the_kernel_keeps_it() -> None:
    fd = posix.memfd_create("test", backend="memfd")
    assert in_child(lambda: posix.add_seals(fd, posix.F_SEAL_GROW)) == 0
    assert posix.get_seals(fd) == posix.F_SEAL_GROW
    posix.close(fd)


def test_child_has_the_seals_that_its_parent_kept() -> None:
    fd = posix.memfd_create("test", backend="shm")
    posix.ftruncate(fd, PAGE)
    posix.add_seals(fd, posix.F_SEAL_GROW)

    def grow() -> None:
        with refused(errno.EPERM):
            posix.ftruncate(fd, 2 * PAGE)
        posix.add_seals(fd, posix.F_SEAL_SHRINK)

    assert in_child(grow) == 0
    assert posix.get_seals(fd) == posix.F_SEAL_GROW
    posix.close(fd)


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
def known() -> Iterator[set[object]]:
    """What was kept before; what is left over, as dup2 and os.close know nothing of it, is dropped."""
    before: set[object] = set(SEALS)
    yield before
    for left in set(SEALS) - before:
        del SEALS[left]


@pytest.mark.parametrize("close", [posix.close, os.close])
@pytest.mark.parametrize("after", ["memfd", "shm"])
def test_number_used_again_has_the_seals_of_its_new_object(
    close: Callable[[int], None], after: str, backend: str, known: set[object]
) -> None:
    old = posix.memfd_create("old", backend=backend)
    posix.add_seals(old, ALL)
    close(old)
    new = posix.memfd_create("new", backend=after)
    assert (new, posix.get_seals(new)) == (old, 0)
    posix.ftruncate(new, PAGE)
    posix.munmap(shared(new))
    posix.close(new)


def test_number_given_to_another_object_has_its_seals(backend: str, known: set[object]) -> None:
    first, second = (posix.memfd_create("test", backend=backend) for _ in range(2))
    posix.add_seals(first, posix.F_SEAL_GROW)
    os.dup2(second, first)
    assert posix.get_seals(first) == 0
    posix.close(first)
    posix.close(second)


def test_what_is_kept_goes_with_the_last_descriptor(known: set[object]) -> None:
    fd = posix.memfd_create("test", backend="shm")
    other = os.dup(fd)
    posix.add_seals(fd, posix.F_SEAL_GROW)
    posix.close(fd)
    assert [SEALS[kept] for kept in set(SEALS) - known] == [posix.F_SEAL_GROW]
    posix.close(other)
    assert set(SEALS) == known


def test_nothing_is_kept_for_the_kernels_objects(known: set[object]) -> None:
    fd = posix.memfd_create("test", backend="memfd")
    posix.add_seals(fd, posix.F_SEAL_GROW)
    assert set(SEALS) == known
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
