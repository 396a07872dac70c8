"""Mapping in this very process: the reservation stays whole, whatever fails inside it."""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import signal
import threading
from collections.abc import Iterator

import pytest

from shmclient._process.address_space import AddressSpace
from shmclient._process.gate import Gate
from shmhost.core.objects import Memfd
from shmprotocol.abi.header import FLAG_SEAL_FULL, FLAG_SEAL_WRITER, Header, check_header
from shmprotocol.errors import AddressConflict, BadRegion
from shmprotocol.kernel import address_space
from shmprotocol.kernel.address_space import MAP_ANYWHERE, MAP_RESERVED
from support import in_child

BASE = 0x6A0000000000  # outside of the windows that other tests reserve, and of a sanitizer's heap
SIZE = 64 * 1024 * 1024
ME = ("a host", 1)


def region(address: int, capacity: int = 8192) -> Memfd:
    memfd = Memfd("x", capacity)
    memfd.publish(header_of(address, capacity, FLAG_SEAL_FULL), "full")
    return memfd


def header_of(address: int, capacity: int, flag: int) -> bytes:
    return Header(
        1, flag, address, capacity, capacity, address + 4096, capacity - 4096, 0, 0, 1, 1, 0,
        0, 0, BASE, SIZE, 0, 0, "x",
    ).pack()  # fmt: skip


def mappings() -> list[tuple[int, int, str]]:
    """Return start, end and protection of what lies in the range of this test."""
    lines = []
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            low, _, high = line.split()[0].partition("-")
            if BASE <= int(low, 16) < BASE + SIZE:
                lines.append((int(low, 16) - BASE, int(high, 16) - BASE, line.split()[1]))
    return lines


WHOLE = [(0, SIZE, "---p")]


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    addresses = AddressSpace()
    addresses.reserve(((BASE, SIZE),))
    assert mappings() == WHOLE
    yield addresses
    address_space.unmap(BASE, SIZE, 0)
    assert mappings() == []


def test_reservation_is_whole_again_when_a_region_is_unmapped(space: AddressSpace) -> None:
    memory, released = region(BASE + 4096 * 16), []
    buffer = space.attach(ME, memory.reader(), BASE + 4096 * 16, 8192, lambda: released.append(1), "a region")
    assert mappings()[1] == (65536, 65536 + 8192, "r--s")
    view = memoryview(buffer.memory)[4096:]
    del buffer
    assert (len(view), released) == (4096, [])
    del view
    assert (mappings(), released) == (WHOLE, [1])
    memory.close()


def test_same_region_is_mapped_once_and_held_twice(space: AddressSpace) -> None:
    memfd, released = region(BASE), []
    first = space.attach(ME, memfd.reader(), BASE, 8192, lambda: released.append(1), "a region")
    second = space.attach(ME, memfd.reader(), BASE, 8192, lambda: released.append(2), "a region")
    del first
    assert released == [1]
    assert memoryview(second.memory)[:7] == b"SHMHOST"
    del second
    assert (mappings(), released) == (WHOLE, [1, 2])
    memfd.close()


@pytest.mark.parametrize("offset", [0, 4096, -4096])
def test_region_in_the_way_is_a_conflict_and_unharmed(offset: int, space: AddressSpace) -> None:
    first, second = region(BASE + 65536), region(BASE + 65536 + offset)
    held = space.attach(ME, first.reader(), BASE + 65536, 8192, lambda: None, "a region")
    before = mappings()
    with pytest.raises(AddressConflict, match="shmhost:x"):
        space.attach(("another", 1), second.reader(), BASE + 65536 + offset, 8192, lambda: None, "a region")
    assert mappings() == before
    elsewhere = space.attach(
        ("another", 1), second.reader(), BASE + 65536 + offset, 8192, lambda: None, "a region", anywhere=True
    )
    assert elsewhere.address != BASE + 65536 + offset
    assert memoryview(elsewhere.memory)[:7] == memoryview(held.memory)[:7] == b"SHMHOST"
    del held, elsewhere
    for memfd in (first, second):
        memfd.close()


def test_reservation_is_as_before_when_an_object_is_no_region(space: AddressSpace) -> None:
    descriptor = os.memfd_create("none", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 8192)
    for _ in range(2):
        with pytest.raises(BadRegion, match="not sealed"):
            space.attach(ME, descriptor, BASE, 8192, lambda: None, "a region")
    other = region(BASE + 4096)
    with pytest.raises(BadRegion, match="announced"):
        space.attach(ME, other.reader(), BASE, 8192, lambda: None, "a region")
    assert mappings() == WHOLE
    other.close()
    os.close(descriptor)


def test_descriptor_that_is_none_is_not_a_region(space: AddressSpace) -> None:
    with pytest.raises(BadRegion, match=r"[Bb]ad file"):
        space.attach(ME, 9999, BASE, 8192, lambda: None, "a region")
    assert mappings() == WHOLE


def test_window_stays_unreserved_when_something_lies_in_it() -> None:
    blocker = AddressSpace()
    blocker.reserve(((BASE + 8192, 4096),))
    space = AddressSpace()
    space.reserve(((BASE, SIZE),))
    memfd = region(BASE + 65536)
    buffer = space.attach(ME, memfd.reader(), BASE + 65536, 8192, lambda: None, "a region")
    assert mappings() == [(8192, 12288, "---p"), (65536, 73728, "r--s")]
    del buffer
    address_space.unmap(BASE + 8192, 4096, 0)
    assert mappings() == []
    memfd.close()


def test_gate_handles_what_is_submitted_while_it_is_held() -> None:
    handled: list[int] = []
    gate: Gate[int] = Gate(handled.append)
    with gate.draining, gate.lock:
        gate.submit(1)  # as a destructor does in the middle of a locked section
        other = threading.Thread(target=gate.submit, args=(2,))
        other.start()
        other.join()
        assert handled == []
    assert handled == [1, 2]


def test_gate_loses_nothing_between_threads() -> None:
    handled: list[int] = []
    gate: Gate[int] = Gate(handled.append)

    def work(start: int) -> None:
        for number in range(start, start + 2000):
            if number % 3:
                gate.submit(number)
            else:
                with gate.draining, gate.lock:
                    gate.submit(number)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(0, 8000, 2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(handled) == list(range(8000))


# --- the functions below, one by one


@pytest.fixture
def reserved() -> Iterator[None]:
    assert address_space.reserve(BASE, SIZE)
    yield
    address_space.unmap(BASE, SIZE, 0)
    assert mappings() == []


@pytest.mark.parametrize(
    ("start", "size"),
    [(0, 4096), (-4096, 8192), (4096, 8192), (-4096, 5 * 4096), (2 * 4096, 4096)],
    ids=["its first page", "over its begin", "over its end", "around it", "its last page"],
)
def test_conflict_names_what_lies_there_when_a_part_of_it_is_taken(start: int, size: int) -> None:
    there, capacity = BASE + 65536, 3 * 4096
    memfd = region(there, capacity)
    address_space.attach(memfd.reader(), there, capacity, 0)
    before = mappings()
    with pytest.raises(AddressConflict, match=f"{there:x}-{there + capacity:x} r--s .*memfd:shmhost:x"):
        address_space.reserve(there + start, size)
    assert mappings() == before
    address_space.unmap(there, capacity, 0)
    memfd.close()


def test_reserve_is_false_when_a_limit_forbids_it() -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        assert address_space.reserve(BASE, 256 << 30) is False
        assert mappings() == []

    assert in_child(limited) == 0


def test_header_page_kills_the_writer_that_writes_to_it(reserved: None) -> None:
    memfd = Memfd("x", 8192)
    address_space.map_writable(memfd.writer(), BASE, 8192, MAP_RESERVED)
    assert mappings()[:2] == [(0, 4096, "r--s"), (4096, 8192, "rw-s")]
    view = memoryview(address_space.bytes_at(BASE, 8192, lambda: None, is_writable=True))

    def write_at(offset: int) -> None:
        faulthandler.disable()  # it is meant to die
        view[offset] = 1

    assert in_child(lambda: write_at(4096)) == 0
    assert in_child(lambda: write_at(4095)) == -signal.SIGSEGV
    address_space.unmap(BASE, 8192, MAP_RESERVED)
    assert mappings() == WHOLE
    memfd.close()


def test_reservation_is_as_before_when_a_published_region_is_mapped_writable(reserved: None) -> None:
    memfd = region(BASE)
    descriptor = os.open(f"/proc/self/fd/{memfd.reader()}", os.O_RDWR)
    with pytest.raises(PermissionError, match="Operation not permitted"):
        address_space.map_writable(descriptor, BASE, 8192, MAP_RESERVED)
    assert mappings() == WHOLE
    os.close(descriptor)
    memfd.close()


@pytest.mark.parametrize("flags", [0, MAP_RESERVED])
def test_map_refuses_address_0(flags: int) -> None:
    """Root may map there, and every NULL pointer of the process would then be a valid one."""
    memfd = Memfd("x", 8192)
    with pytest.raises(OSError, match="Invalid argument"):
        address_space.map_writable(memfd.writer(), 0, 8192, flags)
    memfd.close()


@pytest.mark.parametrize("flags", [0, MAP_ANYWHERE])
def test_header_stays_as_it_was_checked_when_its_writer_changes_it(flags: int) -> None:
    memfd = Memfd("x", 8192)
    with mmap.mmap(memfd.writer(), 8192) as creator:
        memfd.publish(header_of(BASE, 8192, FLAG_SEAL_WRITER), "writer")
        there = address_space.attach(memfd.reader(), BASE, 8192, flags)
        view = memoryview(address_space.bytes_at(there, 8192, lambda: None))
        creator[64:72] = b"\xff" * 8
        creator[4096] = 7
        assert check_header(view[:4096], 8192).root == 0
        assert view[4096] == 7
    address_space.unmap(there, 8192, flags)
    assert mappings() == []
    memfd.close()


def test_attach_refuses_a_full_seal_that_is_only_a_writers() -> None:
    memfd = Memfd("x", 8192)
    memfd.publish(header_of(BASE, 8192, FLAG_SEAL_FULL), "writer")
    with pytest.raises(BadRegion):
        address_space.attach(memfd.reader(), BASE, 8192, 0)
    with pytest.raises(BadRegion):
        address_space.attach(memfd.reader(), BASE, 8192, address_space.MAP_UNSEALED)
    assert mappings() == []
    memfd.close()


@pytest.mark.parametrize("capacity", [0, 4096, 12288])
def test_attach_refuses_a_region_of_another_capacity(capacity: int) -> None:
    memfd = region(BASE)
    with pytest.raises(BadRegion):
        address_space.attach(memfd.reader(), BASE, capacity, 0)
    assert mappings() == []
    memfd.close()


def test_bytes_at_tells_once_when_the_last_view_is_gone() -> None:
    calls: list[int] = []
    address_space.reserve(BASE, 8192)
    buffer = address_space.bytes_at(BASE, 8192, lambda: calls.append(1))
    view = memoryview(buffer)[10:20]
    del buffer
    assert calls == []
    del view
    assert calls == [1]
    address_space.unmap(BASE, 8192, 0)
