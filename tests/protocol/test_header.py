"""The header as Python packs and checks it, against the structure that C has."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from header_support import BASE, CAPACITY, GOOD
from shmprotocol.abi.header import Header, check_header
from shmprotocol.errors import BadRegion
from shmprotocol.native import _native
from shmprotocol.wire.names import MAX_METADATA


def test_python_packs_the_structure_that_c_has() -> None:
    native = _native.ffi.from_buffer("struct shm_region_header *", GOOD.pack())
    for field in Header._fields:
        value = getattr(native, field)
        if field == "name":
            assert _native.ffi.string(value).decode() == GOOD.name
        else:
            number = value if isinstance(value, int) else int(_native.ffi.cast("uintptr_t", value))
            assert number == getattr(GOOD, field), field
    assert (native.abi_major, native.abi_minor) == (_native.lib.SHM_ABI_MAJOR, _native.lib.SHM_ABI_MINOR)
    assert bytes(native.magic) == b"SHMHOST\0"
    assert _native.ffi.sizeof("struct shm_region_header") == 4096


@given(
    root=st.integers(0, 80),
    size=st.integers(100, 4096),
    generation=st.integers(1, 2**64 - 1),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60),
)
def test_header_comes_back_as_it_was_packed(root: int, size: int, generation: int, name: str) -> None:
    header = GOOD._replace(
        root=GOOD.data + root, size=4096 + size, data_size=size, generation=generation, name=name
    )
    assert check_header(header.pack(), CAPACITY) == header


BAD = {
    "kind": 0,
    "flags": 0,
    "base": BASE + 1,
    "size": CAPACITY + 1,
    "capacity": CAPACITY + 4096,
    "data": BASE,
    "data_size": 101,
    "root": BASE + 8,
    "root_size": 2**64 - 1,
    "generation": 0,
    "window_base": BASE + 4096,
    "window_size": 4096,
    "metadata": 1,
    "metadata_size": 11,
    "name": "",
}


@pytest.mark.parametrize("field", BAD)
def test_header_is_refused_when_one_field_is_wrong(field: str) -> None:
    check_header(GOOD.pack(), CAPACITY)
    with pytest.raises(BadRegion):
        check_header(GOOD._replace(**{field: BAD[field]}).pack(), CAPACITY)


# Bytes of the page that no Header can hold, or that contradict the others: offset and what is put there.
RAW = {
    "magic": (0, b"s"),
    "end of magic": (7, b"!"),
    "abi_major": (8, b"\x02"),
    "header_size": (12, struct.pack("<I", 8192)),
    "two flags": (20, struct.pack("<I", 3)),
    "no base": (24, bytes(8)),
    "base at the top": (24, struct.pack("<Q", 2**64 - 4096)),
    "size of half a header": (32, struct.pack("<Q", 2048)),
    "no data": (48, bytes(8)),
    "data_size that overflows": (56, struct.pack("<Q", 2**64 - 4096)),
    "size without a root": (64, bytes(8)),
    "root that overflows": (64, struct.pack("<Q", 2**64 - 8)),
    "name_size of less": (108, struct.pack("<I", 2)),
    "name_size of more": (108, struct.pack("<I", 4)),
    "name_size over the name": (108, struct.pack("<I", 256)),
    "name without an end": (144, b"x" * 256),
    "name that is not UTF-8": (144, b"\xff"),
    "size without metadata": (128, bytes(8)),
}


@pytest.mark.parametrize("what", RAW)
def test_header_is_refused_when_its_bytes_are_wrong(what: str) -> None:
    offset, content = RAW[what]
    page = bytearray(GOOD.pack())
    page[offset : offset + len(content)] = content
    with pytest.raises(BadRegion):
        check_header(bytes(page), CAPACITY)


@pytest.mark.parametrize("field", [10, 80, 88, 96, 100, 104, 400, 4095])
def test_header_is_taken_when_nothing_depends_on_the_byte(field: int) -> None:
    """A later minor version, the generation, time and creator, and what is reserved."""
    page = bytearray(GOOD.pack())
    page[field] ^= 0x40
    check_header(bytes(page), CAPACITY)


@pytest.mark.parametrize("size", [0, 8, 4095])
def test_header_is_refused_when_the_page_is_short(size: int) -> None:
    with pytest.raises(BadRegion, match=f"not {size}"):
        check_header(GOOD.pack()[:size], 4096)


@pytest.mark.parametrize(("size", "is_taken"), [(MAX_METADATA, True), (MAX_METADATA + 1, False)])
def test_header_is_refused_when_its_metadata_is_over_the_limit(size: int, is_taken: bool) -> None:
    capacity = 4096 + (1 << 20)
    header = GOOD._replace(capacity=capacity, size=capacity, metadata=BASE + 4096, metadata_size=size)
    if is_taken:
        assert check_header(header.pack(), capacity).metadata_size == size
    else:
        with pytest.raises(BadRegion):
            check_header(header.pack(), capacity)


def test_limit_of_metadata_is_that_of_the_wire() -> None:
    assert _native.lib.SHM_METADATA_MAX == MAX_METADATA


def test_header_is_what_was_checked_while_its_writer_changes_it() -> None:
    """The page is read once: no value is returned that came after the check."""
    with mmap.mmap(-1, 4096) as page:
        page[:] = GOOD.pack()
        writer = os.fork()
        if writer == 0:
            roots = [struct.pack("<QQ", BASE + 4096 + 8, 16), struct.pack("<QQ", 1, 1 << 60)]
            while True:
                page[64:80] = roots[0]
                page[64:80] = roots[1]
        try:
            headers = list(filter(None, (_checked(page) for _ in range(20_000))))
        finally:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
    assert {(header.root, header.root_size) for header in headers} <= {(BASE + 4096 + 8, 16)}


def _checked(page: mmap.mmap) -> Header | None:
    with contextlib.suppress(BadRegion), memoryview(page) as view:
        return check_header(view, CAPACITY)
    return None
