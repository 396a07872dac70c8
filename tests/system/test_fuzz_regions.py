"""Hostile headers: a reader in Python or C maps nothing, or a region whose pointers all lie inside."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzing import Reader, compiled, forked
from header_support import BASE, GOOD
from shmhost.core.objects import Memfd
from shmprotocol.abi.header import FLAG_SEAL_WRITER, Header, check_header
from shmprotocol.errors import AddressConflict, BadRegion, OutOfMemory
from shmprotocol.kernel import address_space
from shmprotocol.wire.names import MAX_METADATA

CAPACITY = 4096 + (1 << 20)
HEADER = GOOD._replace(
    flags=FLAG_SEAL_WRITER,
    size=CAPACITY - 100,
    capacity=CAPACITY,
    data_size=1 << 19,
    root=BASE + 8192,
    window_size=1 << 38,
    metadata=BASE + 4096 + (1 << 19),
    metadata_size=4096,
    name="fuzz",
)
EDGES = [0, 1, 2, 3, 4, 4095, 4096, 8192, CAPACITY - 100, CAPACITY, 1 << 19, (1 << 19) + 1, 1 << 31, 1 << 47]
EDGES += [1 << 63, (1 << 64) - 1, (1 << 64) - 4096, *(BASE + edge for edge in (1, 4096, CAPACITY, 1 << 38))]
PATCHES = st.tuples(
    st.sampled_from([*range(0, 144, 4), *range(144, 160), 398, 399, 400]),
    st.sampled_from(EDGES).map(lambda edge: struct.pack("<Q", edge)) | st.binary(min_size=1, max_size=8),
)
SEALS = ["full", "writer", "none"]


def page_of(flags: int, patches: list[tuple[int, bytes]]) -> bytes:
    page = bytearray(HEADER._replace(flags=flags).pack())
    for offset, content in patches:
        page[offset : offset + len(content)] = content
    return bytes(page)


PAGES = st.builds(page_of, st.sampled_from([1, 2, 4]), st.lists(PATCHES, max_size=3))
JUNK = st.binary(max_size=400).map(lambda raw: raw.ljust(4096, b"\0"))
EXAMPLES = st.tuples(
    st.integers(0, 2), PAGES | st.binary(max_size=400).map(lambda raw: raw.ljust(4096, b"\0"))
)


def attached(request: bytes) -> str:
    """Attach to an object with this header page as the client does; say what became of it."""
    seal, page = SEALS[request[0]], request[1:]
    address = struct.unpack_from("<Q", page, 24)[0]
    memfd = Memfd("fuzz", CAPACITY)
    try:
        if seal == "none":
            os.pwrite(memfd.writer(), page, 0)
        else:
            memfd.publish(page, seal)
        return attach_and_check(memfd.reader(), address)
    finally:
        memfd.close()


def attach_and_check(descriptor: int, address: int) -> str:
    for flags, unsealed in itertools.product(
        [0, address_space.MAP_ANYWHERE], [0, address_space.MAP_UNSEALED]
    ):
        try:
            there = address_space.attach(descriptor, address, CAPACITY, flags | unsealed)
        except (BadRegion, AddressConflict, OutOfMemory, OSError):
            continue
        view = memoryview(address_space.bytes_at(there, CAPACITY, lambda: None))
        with contextlib.suppress(BadRegion):  # its name can be anything else than UTF-8
            check_pointers(check_header(view, CAPACITY))
        view.release()
        address_space.unmap(there, CAPACITY, flags)
    return "done"


def check_pointers(header: Header) -> None:
    assert header.capacity == CAPACITY
    assert header.metadata_size <= MAX_METADATA
    for pointer, size in (
        (header.data, header.data_size),
        (header.root, header.root_size),
        (header.metadata, header.metadata_size),
    ):
        is_inside = header.base + 4096 <= pointer <= pointer + size <= header.base + header.size
        assert is_inside or pointer == size == 0, header


@pytest.fixture(scope="module")
def attaching_reader() -> Iterator[Reader]:
    reader = Reader(lambda: forked(attached))
    yield reader
    assert reader.stop() == 0


@given(case=EXAMPLES)
def test_header_is_refused_or_leads_nowhere_outside_in_python(
    case: tuple[int, bytes], attaching_reader: Reader
) -> None:
    assert attaching_reader.ask(bytes([case[0]]) + case[1]) == "done"


PROGRAM = r"""
#include "shm_abi.h"
#include <stdio.h>

static unsigned sum; /* what is read is used, so that no compiler leaves the reading out */

static int touch(const struct shm_region_header *h, const void *pointer, uint64_t size)
{
        const unsigned char *bytes = (const unsigned char *)pointer;
        uintptr_t start = (uintptr_t)h->base + SHM_HEADER_SIZE, end = (uintptr_t)h->base + h->size;

        if (pointer == NULL)
                return size == 0;
        if ((uintptr_t)pointer < start || (uintptr_t)pointer > end || size > end - (uintptr_t)pointer)
                return 0;
        for (uint64_t i = 0; i < size; i += 4096)
                sum += bytes[i];
        return size == 0 || (sum += bytes[size - 1], 1);
}

static const char *read_region(int fd, int (*map)(int, const struct shm_region_header **))
{
        const struct shm_region_header *h;
        const char *verdict = "outside";

        if (map(fd, &h) != 0)
                return "refused";
        if (touch(h, h->data, h->data_size) && touch(h, h->root, h->root_size) &&
            touch(h, h->metadata, h->metadata_size) && h->metadata_size <= SHM_METADATA_MAX &&
            strlen(h->name) == h->name_size)
                verdict = "mapped";
        return shm_region_unmap(h) == 0 ? verdict : "not unmapped";
}

int main(int argc, char **argv)
{
        static char request[4 + 1 + SHM_HEADER_SIZE];
        static const int seals[] = {0x8 | 0x2 | 0x4 | 0x1, 0x10 | 0x2 | 0x4 | 0x1, 0};
        off_t capacity = argc == 2 ? atol(argv[1]) : 0;

        while (fread(request, sizeof(request), 1, stdin) == 1) {
                int fd = memfd_create("fuzz", 2 /* MFD_ALLOW_SEALING */);

                alarm(30);
                if (fd < 0 || ftruncate(fd, capacity) < 0 ||
                    pwrite(fd, request + 5, SHM_HEADER_SIZE, 0) != SHM_HEADER_SIZE ||
                    fcntl(fd, 1033 /* F_ADD_SEALS */, seals[(int)request[4]]) < 0)
                        return 3;
                printf("%s %s\n", read_region(fd, shm_region_map), read_region(fd, shm_region_map_unsealed));
                fflush(stdout);
                alarm(0);
                close(fd);
        }
        return sum == 1u << 31;
}
"""


@pytest.fixture(scope="module")
def c_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A native reader, compiled with sanitizers where the compiler has them."""
    with compiled(PROGRAM, tmp_path_factory.mktemp("reader"), str(CAPACITY)) as reader:
        yield reader


@given(case=EXAMPLES)
def test_header_is_refused_or_leads_nowhere_outside_in_c(case: tuple[int, bytes], c_reader: Reader) -> None:
    verdicts = c_reader.ask(bytes([case[0]]) + case[1]).split()
    assert len(verdicts) == 2
    assert set(verdicts) <= {"mapped", "refused"}


@pytest.mark.parametrize(
    ("seal", "flags", "verdicts"),
    [(0, 1, "mapped mapped"), (1, 2, "mapped mapped"), (2, 4, "refused mapped"), (1, 1, "refused refused")],
)
def test_native_reader_maps_what_is_right(seal: int, flags: int, verdicts: str, c_reader: Reader) -> None:
    assert c_reader.ask(bytes([seal]) + page_of(flags, [])) == verdicts
