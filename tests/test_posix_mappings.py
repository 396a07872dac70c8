"""Mappings: where they lie, what they replace, how long they live, and what may be done with their pages."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import gc
import itertools
import mmap
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shmclient import posix
from shmclient.posix._mappings import MAPPINGS
from support import in_child, wait_until

PAGE = posix.getpagesize()
ANONYMOUS = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
CONTENT = b"".join(bytes([number]) * PAGE for number in (1, 2, 3, 4))
# Above the window of the hosts of other tests and the heap of AddressSanitizer, below what the kernel gives.
PLACES = itertools.count(0x680000000000, 1 << 30)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture
def place() -> int:
    """An address that nothing has had before."""
    return next(PLACES)


@pytest.fixture(params=["memfd", "shm"])
def fd(request: pytest.FixtureRequest) -> Iterator[int]:
    """An object of four pages, each full of its number."""
    made = posix.memfd_create("test", backend=request.param)
    os.pwrite(made, CONTENT, 0)
    yield made
    posix.close(made)


def refused(code: int) -> Any:
    """Expect an OSError with this code, its text, and what it is about."""
    return pytest.raises(OSError, match=rf"^\[Errno {code}\] {re.escape(os.strerror(code))}: .")


def anonymous(length: int = PAGE, address: int | None = None, prot: int = posix.PROT_RDWR) -> posix.Mapping:
    return posix.mmap(address, length, prot, ANONYMOUS)


def reserved(length: int, address: int | None = None) -> posix.Mapping:
    return posix.mmap(address, length, posix.PROT_NONE, ANONYMOUS | posix.MAP_NORESERVE)


def shared(fd: int, address: int | None = None, prot: int = posix.PROT_RDWR, **options: Any) -> posix.Mapping:
    return posix.mmap(address, PAGE, prot, posix.MAP_SHARED, fd, **options)


def permissions(address: int, pages: int = 1) -> list[str | None]:
    """Return what /proc/self/maps allows for each page, as "rw-s"; None where nothing is mapped."""
    found: dict[int, str] = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, allowed = line.split()[:2]
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        for page in range(max(low, address), min(high, address + pages * PAGE), PAGE):
            found[page] = allowed
    return [found.get(address + number * PAGE) for number in range(pages)]


def field(name: str, path: str = "/proc/self/status") -> int:
    """Return a number that the kernel shows, in bytes."""
    value = next(line.split() for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:"))
    return int(value[1]) * 1024


def dies_of(code: signal.Signals, function: Callable[[], object]) -> bool:
    """Whether a child that runs the function is ended by a signal."""

    def run() -> None:
        faulthandler.disable()  # or it writes of a death that is meant
        function()

    return in_child(run) == -code


# --- where: F20


def test_mapping_is_at_the_address_that_was_asked_for(fd: int, place: int) -> None:
    with shared(fd, place) as mapping:
        assert (mapping.address, mapping.length) == (place, PAGE)
        assert ctypes.string_at(place, 1) == bytes(mapping.buffer[:1]) == b"\1"
        assert permissions(place, 2) == ["rw-s", None]
    assert permissions(place) == [None]


@pytest.mark.parametrize("address", [None, 0])
def test_system_chooses_the_address_when_none_is_given(address: int | None, fd: int) -> None:
    with shared(fd, address) as first, shared(fd, address) as second:
        assert 0 < first.address != second.address > 0
        assert first.address % PAGE == 0


def test_taken_address_is_refused_with_what_is_there_and_leaves_it_unharmed(fd: int, place: int) -> None:
    occupant = posix.memfd_create("the-occupant")
    posix.ftruncate(occupant, PAGE)
    with shared(occupant, place) as there:
        there.buffer[:4] = b"text"
        line = f"{place:x}-{place + PAGE:x} rw-s .*memfd:the-occupant"
        with pytest.raises(
            FileExistsError, match=f"File exists: mmap of {PAGE} bytes at {place:#x}, .*{line}"
        ):
            shared(fd, place)
        assert bytes(there.buffer[:4]) == b"text"
    posix.close(occupant)


@pytest.mark.parametrize("pages", [-3, -1, 1])
def test_range_that_is_taken_in_part_is_refused(pages: int, place: int) -> None:
    with anonymous(2 * PAGE, place) as there:
        there.buffer[:] = b"x" * 2 * PAGE
        with pytest.raises(FileExistsError, match=f"{place:x}-"):
            anonymous(4 * PAGE, place + pages * PAGE)
        assert bytes(there.buffer) == b"x" * 2 * PAGE
    assert permissions(place - 3 * PAGE, 8) == [None] * 8


def test_address_that_the_standard_library_has_is_refused() -> None:
    with mmap.mmap(-1, PAGE) as theirs:
        theirs[:4] = b"text"
        address = ctypes.addressof(ctypes.c_char.from_buffer(theirs))
        with pytest.raises(FileExistsError, match=f"{address:#x}"):
            anonymous(PAGE, address)
        assert theirs[:4] == b"text"


def test_mappings_side_by_side_are_not_in_the_way(place: int) -> None:
    with anonymous(PAGE, place), anonymous(PAGE, place + 2 * PAGE), anonymous(PAGE, place + PAGE) as middle:
        assert middle.address == place + PAGE


def test_hint_lets_the_system_choose_another_address(fd: int, place: int) -> None:
    with shared(fd, place, hint=True) as first, shared(fd, place, hint=True) as second:
        assert first.address == place != second.address
        assert bytes(second.buffer[:1]) == b"\1"


def test_hint_may_be_misaligned(place: int) -> None:
    with posix.mmap(place + 1, PAGE, posix.PROT_READ, ANONYMOUS, hint=True) as mapping:
        assert mapping.address % PAGE == 0


def test_map_fixed_without_what_it_destroys_is_refused_and_harms_nothing(fd: int, place: int) -> None:
    with anonymous(PAGE, place) as there:
        there.buffer[:4] = b"text"
        for address in (place, place + PAGE, None):
            with pytest.raises(OSError, match=r"Invalid argument: MAP_FIXED at 0x\w+ .*name it in destroys="):
                posix.mmap(address, PAGE, posix.PROT_RDWR, posix.MAP_SHARED | posix.MAP_FIXED, fd)
        assert bytes(there.buffer[:4]) == b"text"
    assert permissions(place, 2) == [None, None]


def test_page_zero_is_never_mapped_for_want_of_an_address() -> None:
    """To root the kernel would give it, and with it every null pointer."""
    for address in (None, 0):
        with refused(errno.EINVAL):
            posix.mmap(address, PAGE, posix.PROT_RDWR, ANONYMOUS | posix.MAP_FIXED_NOREPLACE)


def test_misaligned_address_is_refused(place: int) -> None:
    for address in (place + 1, place + PAGE - 1):
        with refused(errno.EINVAL):
            anonymous(PAGE, address)
    assert permissions(place, 2) == [None, None]


@pytest.mark.parametrize("address", [1 << 62, (1 << 63) - PAGE])
def test_address_beyond_the_address_space_is_refused(address: int) -> None:
    with refused(errno.ENOMEM):
        anonymous(2 * PAGE, address)


# --- what: F21 to F23


@pytest.mark.parametrize("length", [1, PAGE - 1, PAGE, PAGE + 1, 4 * PAGE])
def test_buffer_has_the_length_that_was_asked_for(length: int, fd: int, place: int) -> None:
    pages = -(-length // PAGE)
    with posix.mmap(place, length, posix.PROT_READ, posix.MAP_SHARED, fd) as mapping:
        assert bytes(mapping.buffer) == CONTENT[:length]
        assert permissions(place, 5) == ["r--s"] * pages + [None] * (5 - pages)
    assert permissions(place, 5) == [None] * 5


def test_content_survives_unmapping_and_mapping_again(fd: int, place: int) -> None:
    with shared(fd, place) as mapping:
        mapping.buffer[:4] = b"text"
    with shared(fd, place) as mapping:
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


def test_mapping_says_what_it_is(fd: int, place: int) -> None:
    with shared(fd, place) as mapping:
        assert repr(mapping) == f"<Mapping {PAGE} bytes at {place:#x}, shared, rw->"
    assert repr(mapping) == f"<Mapping {PAGE} bytes at {place:#x}, shared, rw-, unmapped>"
    with reserved(2 * PAGE, place) as mapping:
        assert repr(mapping) == f"<Mapping {2 * PAGE} bytes at {place:#x}, private, --->"


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
def test_bad_length_is_refused(length: int, code: int, place: int) -> None:
    for address in (None, place):
        with refused(code):
            anonymous(length, address)
    assert permissions(place) == [None]


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
    for fd in (reader, ours.fileno()):
        with refused(errno.ENODEV):
            shared(fd, prot=posix.PROT_READ)
    with refused(errno.EACCES):
        shared(writer, prot=posix.PROT_READ)
    for end in (reader, writer, ours.detach(), theirs.detach()):
        os.close(end)


@pytest.mark.parametrize("bad", [1 << 31, 1 << 40, -(1 << 40)])
def test_descriptor_beside_anonymous_memory_is_refused_when_no_c_int_holds_it(bad: int) -> None:
    with refused(errno.EBADF):
        posix.mmap(None, PAGE, posix.PROT_READ, ANONYMOUS, bad)


@pytest.mark.parametrize("bad", ["", "1", b"", 0.0, 1.5, [], (1,)])
def test_arguments_of_another_type_are_type_errors(bad: Any, place: int) -> None:
    prot, flags = posix.PROT_READ, ANONYMOUS
    calls: list[Callable[[], object]] = [
        lambda: posix.mmap(bad, PAGE, prot, flags),
        lambda: posix.mmap(None, bad, prot, flags),
        lambda: posix.mmap(None, PAGE, bad, flags),
        lambda: posix.mmap(None, PAGE, prot, bad),
        lambda: posix.mmap(None, PAGE, prot, flags, bad),
        lambda: posix.mmap(None, PAGE, prot, posix.MAP_SHARED, bad),
        lambda: posix.mmap(None, PAGE, prot, flags, -1, bad),
        lambda: posix.mmap(place, PAGE, prot, flags, destroys=bad),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(TypeError):
            pytest.fail(f"call {number} returned {call()}")


# --- in the place of another mapping


def test_mapping_replaces_a_part_of_a_reservation_and_the_rest_stays(fd: int, place: int) -> None:
    with reserved(8 * PAGE, place) as outer:
        inner = shared(fd, place + 2 * PAGE, destroys=outer)
        assert (inner.address, bytes(inner.buffer)) == (place + 2 * PAGE, CONTENT[:PAGE])
        assert permissions(place, 9) == ["---p"] * 2 + ["rw-s"] + ["---p"] * 5 + [None]
        posix.munmap(inner)
        assert permissions(place, 9) == ["---p"] * 8 + [None]
    assert permissions(place, 8) == [None] * 8


@pytest.mark.parametrize("page", [0, 3, 7])
def test_part_of_a_reservation_can_be_used_again(page: int, fd: int, place: int) -> None:
    with reserved(8 * PAGE, place) as outer:
        for _ in range(3):
            with shared(fd, place + page * PAGE, destroys=outer) as inner:
                assert bytes(inner.buffer) == CONTENT[:PAGE]
        assert permissions(place, 8) == ["---p"] * 8


def test_whole_reservation_can_be_replaced(fd: int, place: int) -> None:
    with reserved(4 * PAGE, place) as outer:
        with posix.mmap(place, 4 * PAGE, posix.PROT_READ, posix.MAP_SHARED, fd, destroys=outer) as inner:
            assert bytes(inner.buffer) == CONTENT
        assert permissions(place, 4) == ["---p"] * 4


def test_reservation_is_not_unmapped_while_mappings_are_inside(fd: int, place: int) -> None:
    outer = reserved(8 * PAGE, place)
    inner = [shared(fd, place + page * PAGE, destroys=outer) for page in (1, 2)]
    for mapping in inner:
        with pytest.raises(BufferError, match=r"\d mappings are inside of <Mapping .*unmap them first"):
            posix.munmap(outer)
        assert bytes(mapping.buffer) == CONTENT[:PAGE]
        posix.munmap(mapping)
    posix.munmap(outer)
    assert permissions(place, 8) == [None] * 8


@pytest.mark.parametrize("pages", [(-1, 1), (-1, 2), (3, 2), (4, 1), (0, 5), (-1, 6)])
def test_range_that_is_not_wholly_inside_is_refused_and_changes_nothing(
    pages: tuple[int, int], fd: int, place: int
) -> None:
    start, count = pages
    with reserved(4 * PAGE, place) as outer:
        with pytest.raises(OSError, match="does not hold this range") as caught:
            posix.mmap(place + start * PAGE, count * PAGE, posix.PROT_NONE, ANONYMOUS, destroys=outer)
        assert caught.value.errno == errno.EINVAL
        assert permissions(place - PAGE, 6) == [None, *["---p"] * 4, None]


@pytest.mark.parametrize("address", [None, 0])
def test_replacement_needs_an_address(address: int | None, fd: int) -> None:
    with reserved(PAGE) as outer, refused(errno.EINVAL):
        shared(fd, address, destroys=outer)


@pytest.mark.parametrize("pages", [(1, 2), (0, 2), (2, 2), (0, 4), (1, 1)])
def test_mappings_inside_of_one_do_not_overlap(pages: tuple[int, int], fd: int, place: int) -> None:
    start, count = pages
    with (
        reserved(4 * PAGE, place) as outer,
        posix.mmap(place + PAGE, 2 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd, destroys=outer) as inner,
    ):
        with pytest.raises(
            FileExistsError, match=f"<Mapping {2 * PAGE} bytes at {inner.address:#x}.* is there"
        ):
            posix.mmap(place + start * PAGE, count * PAGE, posix.PROT_NONE, ANONYMOUS, destroys=outer)
        assert bytes(inner.buffer) == CONTENT[: 2 * PAGE]


def test_mapping_inside_of_one_can_hold_another(fd: int, place: int) -> None:
    with reserved(8 * PAGE, place) as outer:
        inner = posix.mmap(place + PAGE, 4 * PAGE, posix.PROT_NONE, ANONYMOUS, destroys=outer)
        innermost = shared(fd, place + 2 * PAGE, destroys=inner)
        assert permissions(place, 8) == ["---p"] * 2 + ["rw-s"] + ["---p"] * 5
        posix.mprotect(innermost.buffer, posix.PROT_READ)
        assert (innermost.prot, inner.prot) == (posix.PROT_READ, posix.PROT_NONE)
        for mapping in (outer, inner):
            with pytest.raises(BufferError, match="1 mappings are inside"):
                posix.munmap(mapping)
        posix.munmap(innermost)
        posix.munmap(inner)
        assert permissions(place, 8) == ["---p"] * 8


def test_mapping_with_views_is_not_replaced(fd: int, place: int) -> None:
    with anonymous(4 * PAGE, place) as outer:
        view = outer.buffer[PAGE:]
        view[:4] = b"text"
        with pytest.raises(
            BufferError, match=r"views of <Mapping .* live: delete them before it is replaced"
        ):
            shared(fd, place, destroys=outer)
        assert bytes(view[:4]) == b"text"
        del view
        shared(fd, place, destroys=outer).__exit__()


def test_unmapped_mapping_is_not_replaced(fd: int, place: int) -> None:
    outer = reserved(PAGE, place)
    posix.munmap(outer)
    with pytest.raises(OSError, match=r"Invalid argument: <Mapping .*, unmapped> is unmapped"):
        shared(fd, place, destroys=outer)
    assert permissions(place) == [None]


def test_failed_replacement_leaves_the_reservation(fd: int, place: int) -> None:
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with reserved(4 * PAGE, place) as outer:
        with refused(errno.EACCES):
            shared(reader, place + PAGE, destroys=outer)
        with refused(errno.EINVAL):
            shared(fd, place + PAGE, offset=1, destroys=outer)
        with refused(errno.EINVAL):
            shared(fd, place + 1, destroys=outer)
        assert permissions(place, 5) == ["---p"] * 4 + [None]
        shared(fd, place + PAGE, destroys=outer).__exit__()
    posix.close(reader)


def test_failed_replacement_never_makes_a_buffer_deadly(fd: int, place: int) -> None:
    """Whether or not the content is lost, the buffer says so rather than end the process."""
    with anonymous(2 * PAGE, place) as outer:
        outer.buffer[:4] = b"text"
        with refused(errno.EINVAL):
            shared(fd, place, offset=1, destroys=outer)

        def read() -> None:
            with contextlib.suppress(PermissionError):
                assert bytes(outer.buffer[:4]) == b"text"

        assert in_child(read) == 0


def test_mapping_that_was_replaced_in_part_has_no_buffer(fd: int, place: int) -> None:
    """Views of it would not keep the one inside, nor the address space that this leaves."""
    with anonymous(2 * PAGE, place) as outer:
        with shared(fd, place, destroys=outer), pytest.raises(PermissionError):
            outer.buffer
        with pytest.raises(PermissionError):
            outer.buffer


CALLS: dict[str, Callable[[Any], object]] = {
    "mprotect": lambda target: posix.mprotect(target, posix.PROT_READ),
    "msync": lambda target: posix.msync(target),
    "madvise": lambda target: posix.madvise(target, posix.MADV_NORMAL),
}


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("call", CALLS)
def test_call_on_a_mapping_with_others_inside_is_refused_wherever_they_are(
    call: str, page: int, fd: int, place: int
) -> None:
    with reserved(4 * PAGE, place) as outer, shared(fd, place + page * PAGE, destroys=outer) as inner:
        with refused(errno.EINVAL):
            CALLS[call](outer)
        assert permissions(inner.address) == ["rw-s"]
        CALLS[call](inner)


def test_pages_given_back_are_reserved_when_the_inner_mapping_is_collected(fd: int, place: int) -> None:
    outer = reserved(4 * PAGE, place)
    inner = shared(fd, place + PAGE, destroys=outer)
    view = inner.buffer
    del inner
    assert permissions(place + PAGE) == ["rw-s"]
    del view
    assert permissions(place, 4) == ["---p"] * 4
    posix.munmap(outer)


def test_inner_mapping_keeps_the_outer_one(fd: int, place: int) -> None:
    outer = reserved(4 * PAGE, place)
    inner = shared(fd, place + PAGE, destroys=outer)
    del outer
    gc.collect()
    assert permissions(place, 4) == ["---p", "rw-s", "---p", "---p"]
    del inner
    assert permissions(place, 4) == [None] * 4


def test_mappings_inside_of_each_other_are_unmapped_when_collected_in_any_order(fd: int, place: int) -> None:
    """The collector finalizes a cycle's objects in an order of its own."""
    for order in (1, -1):
        outer = reserved(4 * PAGE, place)
        cycle: list[Any] = [outer, shared(fd, place + PAGE, destroys=outer)][::order]
        cycle.append(cycle)
        del outer, cycle
        gc.collect()
        assert permissions(place, 4) == [None] * 4


# --- the end: F25


def test_munmap_is_refused_while_views_live(fd: int) -> None:
    mapping = shared(fd)
    for view in (
        mapping.buffer,
        mapping.buffer[10:20],
        mapping.buffer.cast("I"),
        np.frombuffer(mapping.buffer),
    ):
        with pytest.raises(BufferError, match=rf"views of <Mapping {PAGE} bytes .* live: delete them before"):
            posix.munmap(mapping)
        assert bytes(view)[:4] == CONTENT[:4]
        del view
    posix.munmap(mapping)


def test_numpy_array_over_a_view_keeps_the_memory(fd: int) -> None:
    mapping = shared(fd)
    array = np.frombuffer(mapping.buffer, np.uint8)[::2][5:]
    with pytest.raises(BufferError):
        posix.munmap(mapping)
    address = mapping.address
    del mapping
    gc.collect()
    assert set(array) == {1}
    assert permissions(address) == ["rw-s"]
    del array
    assert permissions(address) == [None]


def test_end_of_a_with_block_is_refused_while_views_live(fd: int) -> None:
    with pytest.raises(BufferError), shared(fd) as mapping:
        view = mapping.buffer
    assert bytes(view[:4]) == CONTENT[:4]
    del view
    posix.munmap(mapping)


def test_second_munmap_is_refused(fd: int, place: int) -> None:
    mapping = shared(fd, place)
    posix.munmap(mapping)
    with anonymous(PAGE, place):
        with pytest.raises(OSError, match=r"Invalid argument: <Mapping .*, unmapped> is unmapped already"):
            posix.munmap(mapping)
        assert permissions(place) == ["rw-p"]


def test_mapping_ends_with_its_block_also_when_unmapped_before(fd: int) -> None:
    with shared(fd) as mapping:
        posix.munmap(mapping)
    with pytest.raises(OSError, match="is unmapped"):
        mapping.buffer


@pytest.mark.parametrize("kind", ["slice", "view", "bytes", "none", "address", "standard"])
def test_munmap_of_what_mmap_did_not_return_is_refused(kind: str, fd: int) -> None:
    mapping, theirs = shared(fd), mmap.mmap(-1, PAGE)
    foreign: dict[str, Callable[[], Any]] = {
        "slice": lambda: mapping.buffer[:10],
        "view": lambda: mapping.buffer,
        "bytes": lambda: b"bytes",
        "none": lambda: None,
        "address": lambda: mapping.address,
        "standard": lambda: theirs,
    }
    with pytest.raises(OSError, match=r"Invalid argument: munmap of a \w+, which is not what mmap returned"):
        posix.munmap(foreign[kind]())
    assert permissions(mapping.address) == ["rw-s"]
    posix.munmap(mapping)
    theirs.close()


def test_collected_mapping_is_unmapped(fd: int, place: int) -> None:
    mapping = shared(fd, place)
    del mapping
    assert permissions(place) == [None]
    with shared(fd, place):
        pass


def test_collected_mapping_stays_while_a_view_lives(fd: int, place: int) -> None:
    view = shared(fd, place).buffer[PAGE - 4 :]
    gc.collect()
    assert permissions(place) == ["rw-s"]
    view[:] = b"text"
    with pytest.raises(FileExistsError):
        shared(fd, place)
    del view
    assert permissions(place) == [None]
    assert os.pread(fd, 4, PAGE - 4) == b"text"


def test_mapping_in_a_cycle_with_its_view_is_unmapped(fd: int, place: int) -> None:
    mapping = shared(fd, place)
    cycle: list[Any] = [mapping, mapping.buffer]
    cycle.append(cycle)
    del mapping, cycle
    gc.collect()
    assert permissions(place) == [None]


def test_views_of_one_mapping_are_of_the_same_memory(fd: int) -> None:
    with shared(fd) as mapping:
        first, second = mapping.buffer, mapping.buffer
        first[:4] = b"text"
        assert bytes(second[:4]) == b"text"
        del first
        with pytest.raises(BufferError):
            posix.munmap(mapping)
        del second


def test_interpreter_ends_in_silence_with_mappings_left() -> None:
    program = """
from shmclient import posix
ANONYMOUS = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS
outer = posix.mmap(None, 65536, 0, ANONYMOUS)
inner = posix.mmap(outer.address, 65536, posix.PROT_RDWR, ANONYMOUS, destroys=outer)
view = inner.buffer
cycle = [posix.mmap(None, 65536, posix.PROT_RDWR, ANONYMOUS), outer, inner, view]
cycle.append(cycle)
"""
    done = subprocess.run([sys.executable, "-X", "dev", "-c", program], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# --- threads: F24


def in_threads(count: int, function: Callable[[int], None]) -> None:
    """Run a function in threads that start together; raise what one of them raised."""
    start, errors = threading.Barrier(count), []

    def run(number: int) -> None:
        start.wait(20)
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_parallel_mappings_at_any_address_are_apart(fd: int) -> None:
    found: list[posix.Mapping] = []
    in_threads(50, lambda number: found.append(shared(fd, offset=number % 4 * PAGE)))
    assert len({mapping.address for mapping in found}) == 50
    assert sorted(bytes(mapping.buffer[:1]) for mapping in found)[::13] == [b"\1", b"\2", b"\3", b"\4"]
    for mapping in found:
        posix.munmap(mapping)


def test_threads_map_and_unmap_in_any_order_and_leave_nothing(fd: int, place: int) -> None:
    """At 30 addresses that they fight for, and in a reservation that they share; some views are kept."""
    before = len(MAPPINGS._found)
    outer = reserved(30 * PAGE, place + 100 * PAGE)

    def work(number: int) -> None:
        chance = random.Random(number)
        kept: list[Any] = []
        for _ in range(30):
            slot, page = chance.randrange(30), chance.randrange(4)
            inside = chance.random() < 0.4
            address = (outer.address if inside else place) + slot * PAGE
            try:
                mapping = shared(fd, address, offset=page * PAGE, destroys=outer if inside else None)
            except FileExistsError:
                continue
            view = mapping.buffer[chance.randrange(PAGE) :]
            assert set(view) == {page + 1}
            match chance.randrange(4):
                case 0:
                    kept.append(view)
                case 1:
                    kept.append(mapping)
                case 2:
                    with pytest.raises(BufferError):
                        posix.munmap(mapping)
                case _:
                    del view
                    posix.munmap(mapping)
            if len(kept) > 3:
                del kept[chance.randrange(3)]
            mapping = view = None

    in_threads(50, work)
    gc.collect()
    assert permissions(place, 31) == [None] * 31
    assert permissions(outer.address, 30) == ["---p"] * 30
    posix.munmap(outer)
    assert len(MAPPINGS._found) == before


# --- protection: F26


def test_write_to_a_page_made_read_only_ends_the_process(fd: int) -> None:
    with shared(fd) as mapping:
        view = mapping.buffer
        posix.mprotect(mapping, posix.PROT_READ)
        assert view[0] == 1
        assert dies_of(signal.SIGSEGV, lambda: view.__setitem__(0, 9))
        posix.mprotect(mapping, posix.PROT_RDWR)
        view[0] = 9
        assert os.pread(fd, 1, 0) == b"\t"
        view.release()


def test_read_of_a_page_without_access_ends_the_process(fd: int) -> None:
    with shared(fd) as mapping:
        view = mapping.buffer
        posix.mprotect(mapping, posix.PROT_NONE)
        assert dies_of(signal.SIGSEGV, lambda: view[0])
        posix.mprotect(mapping, posix.PROT_READ)
        assert view[0] == 1
        view.release()


def test_page_beyond_the_end_of_an_object_ends_the_process(fd: int) -> None:
    with posix.mmap(None, 2 * PAGE, posix.PROT_READ, posix.MAP_SHARED, fd) as mapping:
        view = mapping.buffer
        posix.ftruncate(fd, PAGE)
        assert view[0] == 1
        assert dies_of(signal.SIGBUS, lambda: view[PAGE])
        view.release()


def test_protection_of_the_whole_mapping_is_what_it_says(fd: int) -> None:
    with shared(fd) as mapping:
        for prot, allowed in (
            (posix.PROT_READ, "r--s"),
            (posix.PROT_NONE, "---s"),
            (posix.PROT_RDWR, "rw-s"),
        ):
            posix.mprotect(mapping, prot)
            assert (mapping.prot, permissions(mapping.address)) == (prot, [allowed])


def test_protection_of_a_slice_is_that_of_its_pages_alone(fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.mprotect(mapping.buffer[PAGE : 3 * PAGE], posix.PROT_READ)
        assert permissions(mapping.address, 4) == ["rw-s", "r--s", "r--s", "rw-s"]
        assert mapping.prot == posix.PROT_RDWR
        view = mapping.buffer
        view[0] = view[3 * PAGE] = 9
        assert dies_of(signal.SIGSEGV, lambda: view.__setitem__(PAGE, 9))
        posix.mprotect(np.frombuffer(view, np.uint8)[PAGE : 3 * PAGE], posix.PROT_RDWR)
        view[PAGE] = 9
        view.release()


@pytest.mark.parametrize("call", CALLS)
def test_call_on_a_part_of_a_page_is_refused(call: str) -> None:
    """The kernel would take the rest of the last page along, which the caller did not name."""
    with anonymous(2 * PAGE) as mapping:
        for start, end in ((1, PAGE), (1, PAGE + 1), (PAGE - 1, 2 * PAGE), (0, 100), (PAGE, PAGE + 1)):
            with refused(errno.EINVAL):
                CALLS[call](mapping.buffer[start:end])
        assert permissions(mapping.address, 2) == ["rw-p", "rw-p"]


def test_advice_for_a_part_of_a_page_never_destroys_the_rest() -> None:
    with anonymous() as mapping:
        mapping.buffer[:] = b"x" * PAGE
        with refused(errno.EINVAL):
            posix.madvise(mapping.buffer[:100], posix.MADV_DONTNEED)
        assert bytes(mapping.buffer) == b"x" * PAGE


@pytest.mark.parametrize("call", CALLS)
def test_last_page_may_be_named_in_part_where_the_mapping_ends_there(call: str, fd: int) -> None:
    with posix.mmap(None, PAGE + 100, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        CALLS[call](mapping.buffer[PAGE:])
        CALLS[call](mapping.buffer)
        CALLS[call](mapping)


def test_bad_protection_is_refused(fd: int) -> None:
    with shared(fd) as mapping:
        for bad in (0x10000000, -1, 1 << 31, 1 << 40):
            with refused(errno.EINVAL):
                posix.mprotect(mapping, bad)
        assert (mapping.prot, permissions(mapping.address)) == (posix.PROT_RDWR, ["rw-s"])


# --- calls on what is not ours


@pytest.mark.parametrize("call", CALLS)
def test_call_on_memory_of_others_is_refused_and_harms_nothing(call: str) -> None:
    content = bytearray(b"x" * 4 * PAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(content)) % PAGE
    page = memoryview(content)[start : start + PAGE]
    with mmap.mmap(-1, PAGE) as theirs:
        for target in (content, page, page.toreadonly(), b"bytes", np.zeros(5), theirs):
            with refused(errno.EINVAL):
                CALLS[call](target)
        theirs[0] = content[start] = page[1] = 9
    assert content.count(b"x") == 4 * PAGE - 2


@pytest.mark.parametrize("call", CALLS)
def test_call_on_more_than_one_mapping_is_refused(call: str, place: int) -> None:
    with anonymous(PAGE, place) as first, anonymous(PAGE, place + PAGE) as second:
        both = (ctypes.c_char * (2 * PAGE)).from_address(place)
        with refused(errno.EINVAL):
            CALLS[call](both)
        assert permissions(place, 2) == ["rw-p", "rw-p"]
        assert first.prot == second.prot == posix.PROT_RDWR


@pytest.mark.parametrize("call", CALLS)
def test_call_on_what_is_no_memory_is_refused(call: str) -> None:
    for bad in (None, 5, "text", [1], 0x680000000000):
        with refused(errno.EINVAL):
            CALLS[call](bad)


@pytest.mark.parametrize("call", [*CALLS.values(), posix.mlock, posix.munlock])
def test_call_on_an_unmapped_mapping_is_refused(call: Callable[[Any], object], place: int) -> None:
    mapping = anonymous(PAGE, place)
    posix.munmap(mapping)
    with anonymous(PAGE, place):
        with pytest.raises(OSError, match=r"Invalid argument: <Mapping .*, unmapped> is unmapped"):
            call(mapping)
        assert permissions(place) == ["rw-p"]


@pytest.mark.parametrize("bad", ["1", None, 1.0])
def test_flags_of_another_type_are_type_errors(bad: Any) -> None:
    with anonymous() as mapping:
        for call in (posix.mprotect, posix.msync, posix.madvise):
            with pytest.raises(TypeError):
                call(mapping, bad)
    with pytest.raises(TypeError):
        posix.mlockall(bad)


def test_no_call_leaves_a_view_behind(fd: int) -> None:
    mapping = shared(fd)
    for call in (*CALLS.values(), posix.mlock, posix.munlock):
        call(mapping)
    with refused(errno.EINVAL):
        posix.madvise(mapping, 9999)
    posix.munmap(mapping)


# --- msync: F27


@pytest.mark.parametrize(
    "flags", [posix.MS_SYNC, posix.MS_ASYNC, posix.MS_INVALIDATE, posix.MS_SYNC | posix.MS_INVALIDATE, 0]
)
def test_msync_takes_each_mode(flags: int, fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        mapping.buffer[:4] = b"text"
        posix.msync(mapping, flags)
        posix.msync(mapping.buffer[PAGE : 2 * PAGE], flags)
    assert os.pread(fd, 4, 0) == b"text"


def test_msync_writes_a_mapping_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(PAGE))
    fd = os.open(tmp_path / "file", os.O_RDWR)
    with shared(fd) as mapping:
        mapping.buffer[:4] = b"text"
        posix.msync(mapping)
        assert (tmp_path / "file").read_bytes()[:4] == b"text"
    posix.close(fd)


def test_bad_mode_of_msync_is_refused(fd: int) -> None:
    with shared(fd) as mapping:
        for flags in (posix.MS_SYNC | posix.MS_ASYNC, 64, -1, 1 << 31):
            with refused(errno.EINVAL):
                posix.msync(mapping, flags)


def test_msync_that_would_drop_locked_pages_is_busy(fd: int) -> None:
    with shared(fd) as mapping:
        posix.mlock(mapping)
        with pytest.raises(OSError, match=r"busy: msync .*munlock them first"):
            posix.msync(mapping, posix.MS_INVALIDATE)
        posix.munlock(mapping)
        posix.msync(mapping, posix.MS_INVALIDATE)


# --- madvise: F28


@pytest.mark.parametrize(
    "advice",
    [
        "MADV_NORMAL",
        "MADV_RANDOM",
        "MADV_SEQUENTIAL",
        "MADV_WILLNEED",
        "MADV_DONTNEED",
        "MADV_DONTFORK",
        "MADV_DOFORK",
        "MADV_DONTDUMP",
        "MADV_DODUMP",
        "MADV_POPULATE_READ",
        "MADV_POPULATE_WRITE",
    ],
)
def test_advice_is_taken_and_the_content_of_an_object_stays(advice: str, fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.madvise(mapping, getattr(posix, advice))
        posix.madvise(mapping.buffer[PAGE : 3 * PAGE], getattr(posix, advice))
        assert bytes(mapping.buffer) == CONTENT


@pytest.mark.parametrize(
    ("advice", "needs"),
    [
        ("MADV_HUGEPAGE", "/sys/kernel/mm/transparent_hugepage"),
        ("MADV_NOHUGEPAGE", "/sys/kernel/mm/transparent_hugepage"),
        ("MADV_MERGEABLE", "/sys/kernel/mm/ksm"),
        ("MADV_UNMERGEABLE", "/sys/kernel/mm/ksm"),
    ],
)
def test_advice_that_not_every_kernel_knows_is_taken(advice: str, needs: str) -> None:
    if not Path(needs).exists():
        pytest.skip(f"this kernel has no {needs}")
    with anonymous() as mapping:
        posix.madvise(mapping, getattr(posix, advice))


def test_bad_advice_is_refused(fd: int) -> None:
    with shared(fd) as mapping:
        for advice in (9999, 7, -1, 1 << 31, 1 << 40):
            with refused(errno.EINVAL):
                posix.madvise(mapping, advice)


def smaps_of(address: int) -> dict[str, str]:
    """Return what /proc/self/smaps says of the mapping that starts at an address."""
    found = Path("/proc/self/smaps").read_text().split(f"\n{address:x}-", 1)[1].splitlines()[1:]
    pairs = itertools.takewhile(lambda line: re.match(r"\w+:", line), found)
    return dict(line.split(":", 1) for line in pairs)


@pytest.mark.parametrize("advice", [posix.MADV_POPULATE_READ, posix.MADV_POPULATE_WRITE])
def test_populated_pages_are_present_before_they_are_touched(advice: int, fd: int, place: int) -> None:
    with posix.mmap(place, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        assert smaps_of(place)["Rss"].split() == ["0", "kB"]
        posix.madvise(mapping, advice)
        assert smaps_of(place)["Rss"].split() == [str(4 * PAGE // 1024), "kB"]


def test_pages_that_may_not_be_written_are_not_populated_for_writing(fd: int) -> None:
    with shared(fd, prot=posix.PROT_READ) as mapping, refused(errno.EINVAL):
        posix.madvise(mapping, posix.MADV_POPULATE_WRITE)


def test_pages_are_kept_out_of_a_dump(fd: int, place: int) -> None:
    with shared(fd, place) as mapping:
        posix.madvise(mapping, posix.MADV_DONTDUMP)
        assert "dd" in smaps_of(place)["VmFlags"].split()
        posix.madvise(mapping, posix.MADV_DODUMP)
        assert "dd" not in smaps_of(place)["VmFlags"].split()


def test_private_pages_that_are_not_needed_are_zero_again() -> None:
    with anonymous() as mapping:
        mapping.buffer[:4] = b"text"
        posix.madvise(mapping, posix.MADV_DONTNEED)
        assert bytes(mapping.buffer) == bytes(PAGE)


def test_removed_pages_are_gone_from_the_object(fd: int) -> None:
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.madvise(mapping.buffer[PAGE : 2 * PAGE], posix.MADV_REMOVE)
    assert os.pread(fd, 3 * PAGE, 0) == CONTENT[:PAGE] + bytes(PAGE) + CONTENT[2 * PAGE : 3 * PAGE]


# --- locks: F29, F30


def test_locked_pages_are_counted_until_unlocked(fd: int) -> None:
    before = field("VmLck")
    with posix.mmap(None, 4 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        posix.mlock(mapping)
        assert field("VmLck") == before + 4 * PAGE
        posix.munlock(mapping.buffer[: 3 * PAGE])
        assert field("VmLck") == before + PAGE
        posix.munlock(mapping)
        posix.mlock(mapping.buffer[PAGE : 2 * PAGE])
        assert field("VmLck") == before + PAGE
    assert field("VmLck") == before


def test_lock_takes_the_whole_pages_that_a_buffer_lies_in() -> None:
    content = bytearray(3 * PAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(content)) % PAGE
    before = field("VmLck")
    with memoryview(content)[start + 1 : start + PAGE + 1] as view:
        posix.mlock(view)
        assert field("VmLck") == before + 2 * PAGE
        posix.munlock(view)
    assert field("VmLck") == before
    posix.mlock(content)
    posix.munlock(content)
    content.append(1)  # and nothing holds it


def test_locks_take_an_array_and_nothing_at_all() -> None:
    for target in (np.zeros(10), b"bytes", bytearray()):
        posix.mlock(target)
        posix.munlock(target)


@pytest.mark.parametrize("call", [posix.mlock, posix.munlock])
def test_lock_of_what_is_no_memory_is_a_type_error(call: Callable[[Any], None]) -> None:
    for bad in (None, 5, "text", 0x680000000000):
        with pytest.raises(TypeError):
            call(bad)


def test_lock_of_pages_without_access_is_refused(place: int) -> None:
    with reserved(PAGE, place) as mapping, refused(errno.ENOMEM):
        posix.mlock(mapping)


@needs_root
@pytest.mark.parametrize(("limit", "code"), [(4 * PAGE, errno.ENOMEM), (0, errno.EPERM)])
def test_lock_over_the_limit_is_refused_with_what_to_do(limit: int, code: int) -> None:
    with anonymous(8 * PAGE) as mapping:

        def lock() -> None:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            what = f"mlock of {8 * PAGE} bytes at {mapping.address:#x}"
            with pytest.raises(OSError, match=rf"Errno {code}\] .*: {what}.*RLIMIT_MEMLOCK.*ulimit -l"):
                posix.mlock(mapping)
            if limit:
                posix.mlock(mapping.buffer[:PAGE])
                with refused(errno.ENOMEM):
                    posix.mlockall(posix.MCL_CURRENT)
            else:
                with refused(errno.EPERM):
                    posix.mlockall(posix.MCL_CURRENT)

        assert in_child(lock) == 0


@needs_root
def test_all_pages_are_locked_and_unlocked() -> None:
    """On fault, so that the child need not have all its memory present."""

    def lock() -> None:
        with anonymous() as mapping:
            posix.mlockall(posix.MCL_CURRENT | posix.MCL_FUTURE | posix.MCL_ONFAULT)
            locked = field("VmLck")
            assert locked > 1 << 20
            with anonymous(4 * PAGE):
                assert field("VmLck") == locked + 4 * PAGE
            assert posix.munlock(mapping) is None
            assert field("VmLck") == locked - PAGE
            posix.munlockall()
            assert field("VmLck") == 0

    assert in_child(lock) == 0


@pytest.mark.parametrize("flags", [0, 64, -1, 1 << 31])
def test_bad_flags_of_mlockall_are_refused(flags: int) -> None:
    with refused(errno.EINVAL):
        posix.mlockall(flags)


def test_page_size_is_a_power_of_two_and_pythons() -> None:
    size = posix.getpagesize()
    assert size > 0
    assert size & (size - 1) == 0
    assert size == mmap.PAGESIZE == os.sysconf("SC_PAGESIZE")


# --- forks


def test_child_uses_and_unmaps_its_own_copy_of_a_mapping(fd: int) -> None:
    with shared(fd) as mapping:

        def use() -> None:
            mapping.buffer[:4] = b"text"
            posix.munmap(mapping)
            assert permissions(mapping.address) == [None]
            shared(fd, mapping.address).__exit__()

        assert in_child(use) == 0
        assert bytes(mapping.buffer[:4]) == b"text"


def test_private_memory_is_the_childs_own() -> None:
    with anonymous() as mapping:
        mapping.buffer[:4] = b"mine"
        assert in_child(lambda: mapping.buffer.__setitem__(slice(4), b"your")) == 0
        assert bytes(mapping.buffer[:4]) == b"mine"


def test_child_has_no_mapping_that_it_was_not_to_have(fd: int) -> None:
    with shared(fd) as mapping:
        view = mapping.buffer
        posix.madvise(mapping, posix.MADV_DONTFORK)
        assert dies_of(signal.SIGSEGV, lambda: view[0])
        posix.madvise(mapping, posix.MADV_DOFORK)
        assert in_child(lambda: view[0]) == 0
        view.release()


def test_child_can_map_when_forked_while_other_threads_map(fd: int) -> None:
    """No child may inherit the registry locked, or halfway through a change."""
    done, rounds = threading.Event(), [0, 0]

    def hammer(number: int) -> None:
        while not done.is_set():
            with shared(fd), shared(fd):
                rounds[number] += 1

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: min(rounds) > 3)
        for _ in range(20):
            assert in_child(lambda: shared(fd).__exit__()) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()
