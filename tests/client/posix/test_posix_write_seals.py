"""Seals against writing: what they refuse, what they allow, and when they are busy."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from posix_support import PAGE, refused
from shmclient import posix
from support import in_child

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
