"""Mappings: where they lie, what is in them, and what is refused."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from posix_support import ANONYMOUS, CONTENT, PAGE, anonymous, permissions, refused, reserved, shared
from shmclient import posix

# --- where: F20


def test_mapping_is_at_the_address_that_was_asked_for(fd: int, base: int) -> None:
    with shared(fd, base) as mapping:
        assert (mapping.address, mapping.length) == (base, PAGE)
        assert ctypes.string_at(base, 1) == bytes(mapping.buffer[:1]) == b"\1"
        assert permissions(base, 2) == ["rw-s", None]
    assert permissions(base) == [None]


@pytest.mark.parametrize("address", [None, 0])
def test_system_chooses_the_address_when_none_is_given(address: int | None, fd: int) -> None:
    with shared(fd, address) as first, shared(fd, address) as second:
        assert 0 < first.address != second.address > 0
        assert first.address % PAGE == 0


def test_taken_address_is_refused_with_what_is_there_and_leaves_it_unharmed(fd: int, base: int) -> None:
    occupant = posix.memfd_create("the-occupant")
    posix.ftruncate(occupant, PAGE)
    with shared(occupant, base) as there:
        there.buffer[:4] = b"text"
        line = f"{base:x}-{base + PAGE:x} rw-s .*memfd:the-occupant"
        with pytest.raises(
            FileExistsError, match=f"File exists: mmap of {PAGE} bytes at {base:#x}, .*{line}"
        ):
            shared(fd, base)
        assert bytes(there.buffer[:4]) == b"text"
    posix.close(occupant)


@pytest.mark.parametrize("pages", [-3, -1, 1])
def test_range_that_is_taken_in_part_is_refused(pages: int, base: int) -> None:
    with anonymous(2 * PAGE, base) as there:
        there.buffer[:] = b"x" * 2 * PAGE
        with pytest.raises(FileExistsError, match=f"{base:x}-"):
            anonymous(4 * PAGE, base + pages * PAGE)
        assert bytes(there.buffer) == b"x" * 2 * PAGE
    assert permissions(base - 3 * PAGE, 8) == [None] * 8


def test_address_that_the_standard_library_has_is_refused() -> None:
    with mmap.mmap(-1, PAGE) as theirs:
        theirs[:4] = b"text"
        address = ctypes.addressof(ctypes.c_char.from_buffer(theirs))
        with pytest.raises(FileExistsError, match=f"{address:#x}"):
            anonymous(PAGE, address)
        assert theirs[:4] == b"text"


def test_mappings_side_by_side_are_not_in_the_way(base: int) -> None:
    with anonymous(PAGE, base), anonymous(PAGE, base + 2 * PAGE), anonymous(PAGE, base + PAGE) as middle:
        assert middle.address == base + PAGE


def test_hint_lets_the_system_choose_another_address(fd: int, base: int) -> None:
    with shared(fd, base, hint=True) as first, shared(fd, base, hint=True) as second:
        assert first.address == base != second.address
        assert bytes(second.buffer[:1]) == b"\1"


def test_hint_may_be_misaligned(base: int) -> None:
    with posix.mmap(base + 1, PAGE, posix.PROT_READ, ANONYMOUS, hint=True) as mapping:
        assert mapping.address % PAGE == 0


def test_map_fixed_without_what_it_destroys_is_refused_and_harms_nothing(fd: int, base: int) -> None:
    with anonymous(PAGE, base) as there:
        there.buffer[:4] = b"text"
        for address in (base, base + PAGE, None):
            with pytest.raises(OSError, match=r"Invalid argument: MAP_FIXED at 0x\w+ .*name it in destroys="):
                posix.mmap(address, PAGE, posix.PROT_RDWR, posix.MAP_SHARED | posix.MAP_FIXED, fd)
        assert bytes(there.buffer[:4]) == b"text"
    assert permissions(base, 2) == [None, None]


def test_page_zero_is_never_mapped_for_want_of_an_address() -> None:
    """To root the kernel would give it, and with it every null pointer."""
    for address in (None, 0):
        with refused(errno.EINVAL):
            posix.mmap(address, PAGE, posix.PROT_RDWR, ANONYMOUS | posix.MAP_FIXED_NOREPLACE)


def test_misaligned_address_is_refused(base: int) -> None:
    for address in (base + 1, base + PAGE - 1):
        with refused(errno.EINVAL):
            anonymous(PAGE, address)
    assert permissions(base, 2) == [None, None]


@pytest.mark.parametrize("address", [1 << 62, (1 << 63) - PAGE])
def test_address_beyond_the_address_space_is_refused(address: int) -> None:
    with refused(errno.ENOMEM):
        anonymous(2 * PAGE, address)


# --- what: F21 to F23


@pytest.mark.parametrize("length", [1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE])
def test_buffer_has_the_length_that_was_asked_for(length: int, fd: int, base: int) -> None:
    pages = -(-length // PAGE)
    with posix.mmap(base, length, posix.PROT_READ, posix.MAP_SHARED, fd) as mapping:
        assert bytes(mapping.buffer) == CONTENT[:length]
        assert permissions(base, 5) == ["r--s"] * pages + [None] * (5 - pages)
    assert permissions(base, 5) == [None] * 5


def test_content_survives_unmapping_and_mapping_again(fd: int, base: int) -> None:
    with shared(fd, base) as mapping:
        mapping.buffer[:4] = b"text"
    with shared(fd, base) as mapping:
        assert bytes(mapping.buffer[:5]) == b"text\1"
    assert os.pread(fd, 5, 0) == b"text\1"


@pytest.mark.parametrize("page", [0, 1, 3])
def test_offset_maps_the_page_that_is_there(page: int, fd: int) -> None:
    with shared(fd, offset=page * PAGE) as mapping:
        assert bytes(mapping.buffer) == CONTENT[page * PAGE : (page + 1) * PAGE]
        mapping.buffer[:4] = b"text"
    assert os.pread(fd, 4, page * PAGE) == b"text"


def test_private_mapping_keeps_its_changes(fd: int) -> None:
    with posix.mmap(None, PAGE, posix.PROT_RDWR, posix.MAP_PRIVATE, fd) as mapping:
        mapping.buffer[:4] = b"mine"
        assert os.pread(fd, 4, 0) == CONTENT[:4]
    assert os.pread(fd, 4, 0) == CONTENT[:4]


def test_mapping_outlives_the_descriptor() -> None:
    fd = posix.memfd_create("test")
    posix.ftruncate(fd, PAGE)
    with shared(fd) as mapping:
        posix.close(fd)
        mapping.buffer[:4] = b"text"
        assert bytes(mapping.buffer[:4]) == b"text"


def test_read_only_mapping_has_a_read_only_buffer(fd: int) -> None:
    with shared(fd, prot=posix.PROT_READ) as mapping:
        assert (mapping.buffer.readonly, mapping.is_writable) == (True, False)
        with pytest.raises(TypeError, match="read-only"):
            mapping.buffer[:4] = b"text"
    with shared(fd) as mapping:
        assert (mapping.buffer.readonly, mapping.is_writable) == (False, True)


def test_mapping_that_may_not_be_read_has_no_buffer(fd: int) -> None:
    with shared(fd, prot=posix.PROT_NONE) as mapping:
        with pytest.raises(PermissionError, match=r"Permission denied: <Mapping .* may not be read"):
            mapping.buffer
        posix.mprotect(mapping, posix.PROT_READ)
        assert bytes(mapping.buffer) == CONTENT[:PAGE]


def test_mapping_says_what_it_is(fd: int, base: int) -> None:
    with shared(fd, base) as mapping:
        assert repr(mapping) == f"<Mapping {PAGE} bytes at {base:#x}, shared, rw->"
    assert repr(mapping) == f"<Mapping {PAGE} bytes at {base:#x}, shared, rw-, unmapped>"
    with reserved(2 * PAGE, base) as mapping:
        assert repr(mapping) == f"<Mapping {2 * PAGE} bytes at {base:#x}, private, --->"


# --- bad arguments: F21


@pytest.mark.parametrize(
    ("length", "code"),
    [
        (0, errno.EINVAL),
        (-1, errno.EINVAL),
        (-(1 << 70), errno.EINVAL),
        (1 << 62, errno.ENOMEM),
        ((1 << 63) - 1, errno.ENOMEM),
        (1 << 63, errno.EOVERFLOW),
        (1 << 70, errno.EOVERFLOW),
    ],
)
def test_bad_length_is_refused(length: int, code: int, base: int) -> None:
    for address in (None, base):
        with refused(code):
            anonymous(length, address)
    assert permissions(base) == [None]


@pytest.mark.parametrize(
    ("offset", "code"),
    [
        (-1, errno.EINVAL),
        (-PAGE, errno.EINVAL),
        (1, errno.EINVAL),
        (PAGE - 1, errno.EINVAL),
        (4 * PAGE, errno.ENXIO),
        ((1 << 63) - PAGE, errno.ENXIO),
        (1 << 63, errno.EOVERFLOW),
        (1 << 70, errno.EOVERFLOW),
    ],
)
def test_bad_offset_is_refused(offset: int, code: int, fd: int) -> None:
    with refused(code):
        shared(fd, offset=offset)


def test_end_that_no_offset_reaches_is_refused(fd: int) -> None:
    for offset in ((1 << 63) - PAGE, (1 << 63) - 2 * PAGE):
        with refused(errno.EOVERFLOW):
            posix.mmap(None, 2 * PAGE, posix.PROT_NONE, posix.MAP_SHARED, fd, offset)


@pytest.mark.parametrize("size", [0, 1, PAGE, PAGE + 1])
def test_mapping_ends_with_the_last_page_of_the_object(size: int, fd: int) -> None:
    posix.ftruncate(fd, size)
    pages = -(-size // PAGE)
    for flags in (posix.MAP_SHARED, posix.MAP_PRIVATE):
        expected = f"byte {(pages + 1) * PAGE} of descriptor {fd}, which has {size} bytes"
        with pytest.raises(OSError, match=expected) as caught:
            posix.mmap(None, (pages + 1) * PAGE, posix.PROT_READ, flags, fd)
        assert caught.value.errno == errno.ENXIO
        if pages:
            posix.munmap(posix.mmap(None, pages * PAGE, posix.PROT_READ, flags, fd))


@pytest.mark.parametrize("address", [-1, -PAGE])
def test_negative_address_is_refused(address: int) -> None:
    with refused(errno.EINVAL):
        anonymous(PAGE, address)


@pytest.mark.parametrize("bad", [-1, 1 << 31, 1 << 40])
def test_flags_and_protection_that_no_c_int_holds_are_refused(bad: int) -> None:
    with refused(errno.EINVAL):
        posix.mmap(None, PAGE, bad, ANONYMOUS)
    with refused(errno.EINVAL):
        posix.mmap(None, PAGE, posix.PROT_READ, bad)


def test_mapping_that_is_neither_shared_nor_private_is_refused(fd: int) -> None:
    with refused(errno.EINVAL):
        posix.mmap(None, PAGE, posix.PROT_READ, 0, fd)


def test_what_cannot_be_mapped_is_refused() -> None:
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair()
    for other in (reader, ours.fileno()):
        with refused(errno.ENODEV):
            shared(other, prot=posix.PROT_READ)
    with refused(errno.EACCES):
        shared(writer, prot=posix.PROT_READ)
    for end in (reader, writer, ours.detach(), theirs.detach()):
        os.close(end)


@pytest.mark.parametrize("bad", [1 << 31, 1 << 40, -(1 << 40)])
def test_descriptor_beside_anonymous_memory_is_refused_when_no_c_int_holds_it(bad: int) -> None:
    with refused(errno.EBADF):
        posix.mmap(None, PAGE, posix.PROT_READ, ANONYMOUS, bad)


@pytest.mark.parametrize("bad", ["", "1", b"", 0.0, 1.5, [], (1,)])
def test_arguments_of_another_type_are_type_errors(bad: Any, base: int) -> None:
    prot, flags = posix.PROT_READ, ANONYMOUS
    calls: list[Callable[[], object]] = [
        lambda: posix.mmap(bad, PAGE, prot, flags),
        lambda: posix.mmap(None, bad, prot, flags),
        lambda: posix.mmap(None, PAGE, bad, flags),
        lambda: posix.mmap(None, PAGE, prot, bad),
        lambda: posix.mmap(None, PAGE, prot, flags, bad),
        lambda: posix.mmap(None, PAGE, prot, posix.MAP_SHARED, bad),
        lambda: posix.mmap(None, PAGE, prot, flags, -1, bad),
        lambda: posix.mmap(base, PAGE, prot, flags, destroys=bad),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(TypeError):
            pytest.fail(f"call {number} returned {call()}")
