"""Building in place: what goes in comes out through pointers; what goes wrong leaves nothing behind."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import cffi
import pytest

import shmclient
from support import (
    Machine,
    WatchedHost,
    count_descriptors,
    in_child,
    mapped_addresses,
    wait_until,
    without_proc,
)

FFI = cffi.FFI()
FFI.cdef("struct node { struct node *next; const char *word; int number; double pair[2]; };")


def build_chain(builder: shmclient.RegionBuilder, words: list[bytes]) -> Any:
    head = FFI.NULL
    for number, word in enumerate(words):
        values = {"next": head, "word": builder.bytes(word), "number": number, "pair": [number, 0.5]}
        head = builder.new(FFI, "struct node *", values)
    builder.set_root(head)
    return head


def test_pointers_lead_to_what_was_built(shm: shmclient.Client) -> None:
    with shm.create("chain", 4096) as builder:
        build_chain(builder, [b"one", b"", b"three"])
    node = shm.open("chain").root(FFI, "struct node *")
    values = []
    while node:
        values.append((FFI.string(node.word), node.number, list(node.pair)))
        node = node.next
    assert values == [(b"three", 2, [2.0, 0.5]), (b"", 1, [1.0, 0.5]), (b"one", 0, [0.0, 0.5])]


def test_arrays_are_made_as_ffi_new_makes_them(shm: shmclient.Client) -> None:
    with shm.create("arrays", 4096) as builder:
        fixed = builder.new(FFI, "int[4]", [1, 2, 3])
        counted = builder.new(FFI, "double[]", 3)
        filled = builder.new(FFI, "short[]", range(5))
        nodes = builder.new(FFI, "struct node[]", [{"number": 7}, {"number": 8}])
        assert (list(fixed), list(counted), list(filled)) == ([1, 2, 3, 0], [0.0] * 3, [0, 1, 2, 3, 4])
        assert [FFI.sizeof(array) for array in (fixed, counted, filled)] == [16, 24, 10]
        assert [node.number for node in nodes] == [7, 8]
        for array in (fixed, counted, filled, nodes):
            assert (
                int(FFI.cast("uintptr_t", FFI.addressof(array, 0))) % FFI.alignof(FFI.typeof(array).item) == 0
            )


@pytest.mark.parametrize("align", [1, 8, 64, 4096])
def test_alloc_gives_zeroed_aligned_memory_that_does_not_overlap(align: int, shm: shmclient.Client) -> None:
    with shm.create("room", 64 * 1024) as builder:
        addresses = [builder.alloc(10, align) for _ in range(5)]
        assert all(address % align == 0 for address in addresses)
        assert all(b - a >= 10 for a, b in itertools.pairwise(addresses))
        assert builder.data_address <= addresses[0]
        assert bytes(builder.data) == bytes(64 * 1024)


def test_alloc_takes_the_last_byte_and_not_one_more(shm: shmclient.Client) -> None:
    with shm.create("full", 100) as builder:
        builder.alloc(99, 1)
        builder.alloc(1, 1)
        with pytest.raises(shmclient.InvalidArgument, match="0 of 100 are left"):
            builder.alloc(1, 1)


@pytest.mark.parametrize(("size", "align"), [(-1, 1), (1, 0), (1, 3), (1, -8)])
def test_alloc_refuses_what_makes_no_sense(size: int, align: int, shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder, pytest.raises(shmclient.InvalidArgument):
        builder.alloc(size, align)


def test_root_is_refused_when_it_lies_outside(shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        for address in (0, 0x1000, builder.address, builder.data_address + 100):
            with pytest.raises(shmclient.InvalidArgument):
                builder.set_root(FFI.cast("int *", address))
        with pytest.raises(TypeError):
            builder.set_root(builder.data_address)


def test_root_is_refused_when_the_reader_takes_it_for_something_larger(shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        builder.set_root(builder.new(FFI, "int *", 5))
    region = shm.open("x")
    assert region.root(FFI, "int *")[0] == 5
    with pytest.raises(shmclient.BadRegion, match="int"):
        region.root(FFI, "struct node *")


def test_exception_in_the_block_undoes_everything(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    with pytest.raises(ZeroDivisionError), shm.create("x", 4096) as builder:
        build_chain(builder, [b"a"])
        raise ZeroDivisionError
    del builder
    wait_until(lambda: host.counts() == before)
    shm.put("x", b"the name is free").close()


def write_to(view: Any) -> Callable[[], None]:
    def write() -> None:
        import faulthandler

        faulthandler.disable()
        view[0] = 1

    return write


@pytest.mark.parametrize("backend", ["memfd", "shm"])
def test_view_reads_on_after_publish_and_a_write_by_it_ends_the_process(
    backend: str, shm: shmclient.Client
) -> None:
    with shm.create("x", 100, backend=backend) as builder:
        view = builder.data
        view[:3] = b"abc"
    assert bytes(view[:3]) == b"abc"
    assert in_child(write_to(view)) == -signal.SIGSEGV
    assert in_child(write_to(memoryview(view.obj))) == -signal.SIGSEGV  # the header page
    region = shm.open("x")
    assert bytes(region.data[:3]) == b"abc"
    assert region.address == builder.address
    assert mapped_addresses() == ([builder.address] if backend == "memfd" else [])  # once


def test_view_of_a_published_region_keeps_its_lease(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    with shm.create("x", 100) as builder:
        view = builder.data
    builder.region.close()  # type: ignore[union-attr]
    shm.unlink("x")
    del builder
    assert (host.counts()["leases"], host.counts()["regions"]) == (1, 1)
    view.release()
    wait_until(lambda: host.counts() == before)


def test_view_after_a_refused_publish_can_only_be_read(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    with pytest.raises(shmclient.RegionBusy, match="writable mapping"), shm.create("x", 100) as builder:
        view = builder.data
        view[:3] = b"abc"
        foreign = mmap.mmap(builder.fileno(), builder.capacity)
    assert bytes(view[:3]) == b"abc"
    assert in_child(write_to(view)) == -signal.SIGSEGV
    foreign.close()
    shm.put("x", b"the name is free").close()
    shm.unlink("x")
    del view, builder
    wait_until(lambda: host.counts() == before)


@pytest.mark.parametrize("seal", ["full", "writer"])
def test_writable_view_after_the_host_died_in_the_block_is_safe(seal: str, machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        with pytest.raises(shmclient.HostGone), shm.create("x", 100, seal=seal) as builder:
            view = builder.data
            view[:3] = b"abc"
            machine.kill()
        assert bytes(view[:3]) == b"abc"
        with pytest.raises(shmclient.RegionClosed):
            builder.alloc(1)


@pytest.mark.skipif(os.getuid() != 0, reason="makes a mount namespace")
def test_publish_without_proc_needs_that_no_view_lives(host: WatchedHost) -> None:
    def build() -> None:
        shm = shmclient.connect(host.socket_path)
        with shm.create("x", 100) as builder:
            builder.data[:3] = b"abc"
        assert bytes(shm.get("x")[:3]) == b"abc"
        with pytest.raises(shmclient.RegionBusy, match="is /proc mounted"), shm.create("x", 100) as builder:
            view = builder.data
        view[:3] = b"own"  # nothing was frozen
        shm.put("x", b"the name is free")

    assert in_child(without_proc(build)) == 0


def test_publish_is_refused_while_a_forked_child_maps_it(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    reader, writer = os.pipe()
    with pytest.raises(shmclient.RegionBusy, match="child"), shm.create("x", 100) as builder:
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    os.close(writer)
    os.close(reader)
    os.waitpid(pid, 0)
    del builder
    wait_until(lambda: host.counts() == before)


def test_builder_is_over_when_it_is_published(shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        node = builder.new(FFI, "struct node *", {"number": 5})
    for use in (lambda: builder.data, lambda: builder.alloc(1), builder.fileno):
        with pytest.raises(shmclient.RegionClosed):
            use()
    assert node.number == 5  # readable while the builder holds its region


def die_writing(pointer: Any) -> Callable[[], None]:
    def write() -> None:
        import faulthandler

        faulthandler.disable()
        pointer.number = 1

    return write


def test_writing_to_a_published_region_ends_the_writer(shm: shmclient.Client) -> None:
    with shm.create("x", 4096) as builder:
        node = build_chain(builder, [b"a"])
    assert in_child(die_writing(node)) == -signal.SIGSEGV
    assert in_child(die_writing(shm.open("x").root(FFI, "struct node *"))) == -signal.SIGSEGV


def test_writer_goes_on_writing_and_readers_see_it(shm: shmclient.Client) -> None:
    with shm.create("x", 100, seal="writer") as builder:
        builder.data[:5] = b"first"
    view = shm.get("x")
    builder.data[:5] = b"later"
    assert bytes(view[:5]) == b"later"
    assert view.readonly


def test_writer_cannot_touch_the_header_page(shm: shmclient.Client) -> None:
    with shm.create("x", 100, seal="writer") as builder:
        pass

    def write() -> None:
        import faulthandler

        faulthandler.disable()
        FFI.cast("char *", builder.address)[0] = b"X"

    assert in_child(write) == -signal.SIGSEGV


def test_nobody_else_can_map_a_writers_region_writable(shm: shmclient.Client) -> None:
    import mmap

    with shm.create("x", 100, seal="writer"):
        pass
    region = shm.open("x")
    with pytest.raises(PermissionError):
        mmap.mmap(region.fileno(), 4096, prot=mmap.PROT_WRITE)
    again = os.open(f"/proc/self/fd/{region.fileno()}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            mmap.mmap(again, 4096)
        with pytest.raises(PermissionError):
            os.ftruncate(again, 0)
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 4096)
    finally:
        os.close(again)


def test_writers_lease_lives_as_long_as_its_mapping(host: WatchedHost, shm: shmclient.Client) -> None:
    with shm.create("x", 100, seal="writer") as builder:
        view = builder.data
    shm.unlink("x")
    assert builder.region is not None
    builder.region.close()
    del builder
    view[:1] = b"x"
    assert host.counts()["leases"] == 1
    del view
    wait_until(lambda: host.counts()["regions"] == 0)


def test_builders_leave_no_descriptor_and_no_mapping(host: WatchedHost, shm: shmclient.Client) -> None:
    before = (count_descriptors(), mapped_addresses())
    for number in range(20):
        with shm.create(f"x/{number}", 100) as builder:
            builder.data[:1] = b"x"
        del builder
        shm.unlink(f"x/{number}")
    wait_until(lambda: (count_descriptors(), mapped_addresses()) == before)


@pytest.mark.parametrize("settings", [{"seal": "half"}, {"backend": "disk"}, {"mode": 0o1777}, {"mode": -1}])
def test_create_refuses_unknown_settings(settings: dict[str, Any], shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.InvalidArgument), shm.create("x", 100, **settings):
        pass
