"""Mappings in the place of others: what is destroyed, and what stays reserved."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from posix_support import ANONYMOUS, CALLS, CONTENT, PAGE, anonymous, permissions, refused, reserved, shared
from shmclient import posix
from support import in_child

# --- in the place of another mapping


def test_mapping_replaces_a_part_of_a_reservation_and_the_rest_stays(fd: int, base: int) -> None:
    with reserved(8 * PAGE, base) as outer:
        inner = shared(fd, base + 2 * PAGE, destroys=outer)
        assert (inner.address, bytes(inner.buffer)) == (base + 2 * PAGE, CONTENT[:PAGE])
        assert permissions(base, 9) == ["---p"] * 2 + ["rw-s"] + ["---p"] * 5 + [None]
        posix.munmap(inner)
        assert permissions(base, 9) == ["---p"] * 8 + [None]
    assert permissions(base, 8) == [None] * 8


@pytest.mark.parametrize("page", [0, 3, 7])
def test_part_of_a_reservation_can_be_used_again(page: int, fd: int, base: int) -> None:
    with reserved(8 * PAGE, base) as outer:
        for _ in range(3):
            with shared(fd, base + page * PAGE, destroys=outer) as inner:
                assert bytes(inner.buffer) == CONTENT[:PAGE]
        assert permissions(base, 8) == ["---p"] * 8


def test_whole_reservation_can_be_replaced(fd: int, base: int) -> None:
    with reserved(4 * PAGE, base) as outer:
        with posix.mmap(base, 4 * PAGE, posix.PROT_READ, posix.MAP_SHARED, fd, destroys=outer) as inner:
            assert bytes(inner.buffer) == CONTENT
        assert permissions(base, 4) == ["---p"] * 4


def test_reservation_is_not_unmapped_while_mappings_are_inside(fd: int, base: int) -> None:
    outer = reserved(8 * PAGE, base)
    inner = [shared(fd, base + page * PAGE, destroys=outer) for page in (1, 2)]
    for mapping in inner:
        with pytest.raises(BufferError, match=r"\d mappings are inside of <Mapping .*unmap them first"):
            posix.munmap(outer)
        assert bytes(mapping.buffer) == CONTENT[:PAGE]
        posix.munmap(mapping)
    posix.munmap(outer)
    assert permissions(base, 8) == [None] * 8


@pytest.mark.parametrize("pages", [(-1, 1), (-1, 2), (3, 2), (4, 1), (0, 5), (-1, 6)])
def test_range_that_is_not_wholly_inside_is_refused_and_changes_nothing(
    pages: tuple[int, int], fd: int, base: int
) -> None:
    start, count = pages
    with reserved(4 * PAGE, base) as outer:
        with pytest.raises(OSError, match="does not hold this range") as caught:
            posix.mmap(base + start * PAGE, count * PAGE, posix.PROT_NONE, ANONYMOUS, destroys=outer)
        assert caught.value.errno == errno.EINVAL
        assert permissions(base - PAGE, 6) == [None, *["---p"] * 4, None]


@pytest.mark.parametrize("address", [None, 0])
def test_replacement_needs_an_address(address: int | None, fd: int) -> None:
    with reserved(PAGE) as outer, refused(errno.EINVAL):
        shared(fd, address, destroys=outer)


@pytest.mark.parametrize("pages", [(1, 2), (0, 2), (2, 2), (0, 4), (1, 1)])
def test_mappings_inside_of_one_do_not_overlap(pages: tuple[int, int], fd: int, base: int) -> None:
    start, count = pages
    with (
        reserved(4 * PAGE, base) as outer,
        posix.mmap(base + PAGE, 2 * PAGE, posix.PROT_RDWR, posix.MAP_SHARED, fd, destroys=outer) as inner,
    ):
        with pytest.raises(
            FileExistsError, match=f"<Mapping {2 * PAGE} bytes at {inner.address:#x}.* is there"
        ):
            posix.mmap(base + start * PAGE, count * PAGE, posix.PROT_NONE, ANONYMOUS, destroys=outer)
        assert bytes(inner.buffer) == CONTENT[: 2 * PAGE]


def test_mapping_inside_of_one_can_hold_another(fd: int, base: int) -> None:
    with reserved(8 * PAGE, base) as outer:
        inner = posix.mmap(base + PAGE, 4 * PAGE, posix.PROT_NONE, ANONYMOUS, destroys=outer)
        innermost = shared(fd, base + 2 * PAGE, destroys=inner)
        assert permissions(base, 8) == ["---p"] * 2 + ["rw-s"] + ["---p"] * 5
        posix.mprotect(innermost.buffer, posix.PROT_READ)
        assert (innermost.prot, inner.prot) == (posix.PROT_READ, posix.PROT_NONE)
        for mapping in (outer, inner):
            with pytest.raises(BufferError, match="1 mappings are inside"):
                posix.munmap(mapping)
        posix.munmap(innermost)
        posix.munmap(inner)
        assert permissions(base, 8) == ["---p"] * 8


def test_mapping_with_views_is_not_replaced(fd: int, base: int) -> None:
    with anonymous(4 * PAGE, base) as outer:
        view = outer.buffer[PAGE:]
        view[:4] = b"text"
        with pytest.raises(
            BufferError, match=r"views of <Mapping .* live: delete them before it is replaced"
        ):
            shared(fd, base, destroys=outer)
        assert bytes(view[:4]) == b"text"
        del view
        shared(fd, base, destroys=outer).__exit__()


def test_unmapped_mapping_is_not_replaced(fd: int, base: int) -> None:
    outer = reserved(PAGE, base)
    posix.munmap(outer)
    with pytest.raises(OSError, match=r"Invalid argument: <Mapping .*, unmapped> is unmapped"):
        shared(fd, base, destroys=outer)
    assert permissions(base) == [None]


def test_failed_replacement_leaves_the_reservation(fd: int, base: int) -> None:
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    with reserved(4 * PAGE, base) as outer:
        with refused(errno.EACCES):
            shared(reader, base + PAGE, destroys=outer)
        with refused(errno.EINVAL):
            shared(fd, base + PAGE, offset=1, destroys=outer)
        with refused(errno.EINVAL):
            shared(fd, base + 1, destroys=outer)
        assert permissions(base, 5) == ["---p"] * 4 + [None]
        shared(fd, base + PAGE, destroys=outer).__exit__()
    posix.close(reader)


def test_failed_replacement_never_makes_a_buffer_deadly(fd: int, base: int) -> None:
    """Whether or not the content is lost, the buffer says so rather than end the process."""
    with anonymous(2 * PAGE, base) as outer:
        outer.buffer[:4] = b"text"
        with refused(errno.EINVAL):
            shared(fd, base, offset=1, destroys=outer)

        def read() -> None:
            with contextlib.suppress(PermissionError):
                assert bytes(outer.buffer[:4]) == b"text"

        assert in_child(read) == 0


def test_refused_replacement_destroys_nothing(fd: int, base: int) -> None:
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    refusals: list[tuple[int, Callable[[posix.Mapping], object]]] = [
        (errno.EINVAL, lambda outer: shared(fd, base + 1, destroys=outer)),
        (errno.EINVAL, lambda outer: shared(fd, base, offset=1, destroys=outer)),
        (errno.EACCES, lambda outer: shared(reader, base, destroys=outer)),
        (errno.ENXIO, lambda outer: shared(fd, base, offset=16 * PAGE, destroys=outer)),
    ]
    with anonymous(4 * PAGE, base) as outer:
        outer.buffer[:5] = b"hello"
        for code, attempt in refusals:
            with refused(code):
                attempt(outer)
            assert bytes(outer.buffer[:5]) == b"hello"
    os.close(reader)


def test_replaced_mapping_is_destroyed_on_both_sides(fd: int, base: int) -> None:
    with anonymous(4 * PAGE, base) as outer:
        outer.buffer[:] = b"x" * 4 * PAGE
        with shared(fd, base + PAGE, destroys=outer) as inner:
            assert permissions(base, 4) == ["---p", "rw-s", "---p", "---p"]
            assert bytes(inner.buffer[:1]) == b"\1"
            assert outer.prot == posix.PROT_NONE
        assert permissions(base, 4) == ["---p"] * 4


def test_mapping_that_was_replaced_in_part_has_no_buffer(fd: int, base: int) -> None:
    """Views of it would not keep the one inside, nor the address space that this leaves."""
    with anonymous(2 * PAGE, base) as outer:
        with shared(fd, base, destroys=outer), pytest.raises(PermissionError):
            outer.buffer
        with pytest.raises(PermissionError):
            outer.buffer


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("call", CALLS)
def test_call_on_a_mapping_with_others_inside_is_refused_wherever_they_are(
    call: str, page: int, fd: int, base: int
) -> None:
    with reserved(4 * PAGE, base) as outer, shared(fd, base + page * PAGE, destroys=outer) as inner:
        with refused(errno.EINVAL):
            CALLS[call](outer)
        assert permissions(inner.address) == ["rw-s"]
        CALLS[call](inner)


def test_pages_given_back_are_reserved_when_the_inner_mapping_is_collected(fd: int, base: int) -> None:
    outer = reserved(4 * PAGE, base)
    inner = shared(fd, base + PAGE, destroys=outer)
    view = inner.buffer
    del inner
    assert permissions(base + PAGE) == ["rw-s"]
    del view
    assert permissions(base, 4) == ["---p"] * 4
    posix.munmap(outer)


def test_inner_mapping_keeps_the_outer_one(fd: int, base: int) -> None:
    outer = reserved(4 * PAGE, base)
    inner = shared(fd, base + PAGE, destroys=outer)
    del outer
    gc.collect()
    assert permissions(base, 4) == ["---p", "rw-s", "---p", "---p"]
    del inner
    assert permissions(base, 4) == [None] * 4


def test_mappings_inside_of_each_other_are_unmapped_when_collected_in_any_order(fd: int, base: int) -> None:
    """The collector finalizes a cycle's objects in an order of its own."""
    for order in (1, -1):
        outer = reserved(4 * PAGE, base)
        cycle: list[Any] = [outer, shared(fd, base + PAGE, destroys=outer)][::order]
        cycle.append(cycle)
        del outer, cycle
        gc.collect()
        assert permissions(base, 4) == [None] * 4
