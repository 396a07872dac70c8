"""Regions that grow in place: pointers stay valid, readers follow, and nobody reads behind the end."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cffi
import pytest

import shmclient
import shmclient.aio
import shmhost
from shmprotocol.abi.header import check_header
from support import WatchedHost, in_child

PAGE = 4096
ffi = cffi.FFI()
ffi.cdef("struct node { struct node *next; int64_t number; };")


def grown(shm: shmclient.Client, name: str = "log", size: int = 1000, max_size: int = 1 << 20) -> Any:
    with shm.create(name, size, max_size=max_size, seal="writer", mode=0o644) as builder:
        builder.data[:3] = b"old"
    return builder


def test_region_grows_in_place_and_live_readers_follow(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    builder = grown(shm)
    reader = other.open("log")
    before, address = reader.data, reader.address
    assert len(before) == reader.size == builder.size == 2 * PAGE
    assert builder.region.resize(100_000) == 25 * PAGE - PAGE + PAGE
    builder.data[-1] = 7
    assert (reader.address, len(reader.data), reader.data[-1]) == (address, builder.size, 7)
    assert bytes(before[:3]) == bytes(reader.data[:3]) == b"old"
    assert len(other.get("log")) == len(reader.value()) == builder.size
    assert reader.capacity == builder.size + PAGE
    assert other.stat("log").size == builder.size


def test_pointers_lead_into_what_was_added(shm: shmclient.Client, other: shmclient.Client) -> None:
    """A list that its writer goes on building: the root was set once, and readers follow new nodes."""
    with shm.create("list", 64, max_size=1 << 20, seal="writer") as builder:
        first = builder.new(ffi, "struct node *", {"number": 0})
        builder.set_root(first)
    with other.open("list") as region:
        root, last = region.root(ffi, "struct node *"), first
        for number in range(1, 2000):
            if builder.size - (int(ffi.cast("uintptr_t", last)) - builder.data_address) < 64:
                builder.region.resize(builder.size + 1)
            node = builder.new(ffi, "struct node *", {"number": number})
            last.next = node
            last = node
        assert builder.size > 7 * PAGE
        node, numbers = root, []
        while node != ffi.NULL:
            numbers.append(node.number)
            node = node.next
        assert numbers == list(range(2000))
        assert region.metadata == {"format": "objects", "root": "struct node *"}
        shmclient.check_pointers(region, ffi, "struct node *")


def test_arrays_keep_their_places(shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.create("table", 20_000, max_size=1 << 20, seal="writer") as builder:
        builder.array(1000, "f8", "a")[:] = 1
        builder.array(10, "i4", "b")[:] = 2
    value = other.get("table")
    builder.region.resize(1 << 19)
    later = other.get("table")
    for each in (value, later):
        assert (each["a"].sum(), each["b"].sum()) == (1000, 20)
    assert value["a"].ctypes.data == later["a"].ctypes.data
    assert builder.alloc(64) > builder.address + PAGE + 8040  # behind the index and the metadata


def test_shared_region_grows_for_all_who_write(shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.create("log", 1, max_size=1 << 20, seal="shared") as builder:
        pass
    with other.open("log") as region:
        builder.region.resize(50_000)
        region.data[49_999] = 5
        assert builder.data[49_999] == 5


@pytest.mark.anyio
async def test_async_client_grows_too(host: WatchedHost, anyio_backend: str) -> None:
    async with shmclient.aio.AsyncClient(host.socket_path) as ashm:
        async with ashm.create("log", 1, max_size=1 << 20, seal="writer") as builder:
            pass
        assert await builder.region.resize(50_000) == builder.size
        assert len(await ashm.get("log")) == builder.size >= 50_000


def test_growth_up_to_max_size_and_no_further(shm: shmclient.Client) -> None:
    builder = grown(shm, max_size=10 * PAGE)
    assert builder.region.resize(10 * PAGE) == 10 * PAGE
    builder.data[10 * PAGE - 1] = 1
    with pytest.raises(shmclient.InvalidArgument, match="40960: create it with a larger max_size"):
        builder.region.resize(10 * PAGE + 1)
    assert builder.region.resize(1) == 10 * PAGE  # it never shrinks
    for size in (0, -1, 2**63, 1.5, None):
        with pytest.raises(shmclient.InvalidArgument):
            builder.region.resize(size)


def test_regions_that_cannot_grow_say_so(shm: shmclient.Client) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="create it with a larger max_size"):
        shm.put("a", b"1").resize(2)
    for options in (
        {"seal": "full"},
        {"seal": "writer", "backend": "shm"},
        {"seal": "writer", "max_size": 1},
    ):
        making: Any = shm.create("b", 8000, **{"max_size": 1 << 20, **options})  # type: ignore[arg-type]
        with pytest.raises(shmclient.InvalidArgument, match="max_size"):
            making.__enter__()
    assert [info.name for info in shm.list()] == ["a"]


def test_only_the_current_region_grows(shm: shmclient.Client) -> None:
    old = grown(shm)
    grown(shm)
    with pytest.raises(shmclient.RegionNotFound, match="does not grow"):
        old.region.resize(50_000)


def test_bytes_are_charged_as_they_come_at_limit_and_one_more(tmp_path: Path) -> None:
    with shmhost.embedded(budget=16 << 20) as host, shmclient.connect(host.socket_path) as shm:
        builder = grown(shm, max_size=1 << 30)  # addresses are no bytes
        with pytest.raises(shmclient.QuotaExceeded):
            builder.region.resize(1 << 24)
        size = builder.size
        assert len(shm.get("log")) == size
        step = 1 << 22
        while step >= PAGE:
            try:
                size = builder.region.resize(size + step)
            except shmclient.QuotaExceeded:
                step //= 2
        with pytest.raises(shmclient.QuotaExceeded):
            shm.create("x", 1).__enter__()
        shm.unlink("log")
        builder.region.close()
        del builder
        shm.put("x", bytes(8 << 20)).close()


def test_writer_that_enlarges_the_object_by_itself_harms_no_reader(shm: shmclient.Client) -> None:
    with shm.create("log", 1000, max_size=1 << 20, seal="writer") as builder:
        descriptor = os.dup(builder.fileno())
    os.ftruncate(descriptor, 1 << 19)
    assert len(shm.get("log")) == (1 << 19) - PAGE
    assert builder.region.resize(1 << 20) == 1 << 20  # from here on all of it is charged
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, PAGE)
    os.ftruncate(descriptor, 1 << 30)
    with shm.open("log") as region:
        assert len(region.data) == region.size == 1 << 20  # as far as addresses are its own
    os.close(descriptor)


def test_region_that_was_enlarged_without_the_host_loses_its_name(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    with other.create("log", 1000, max_size=1 << 20, seal="writer") as builder:
        descriptor = os.dup(builder.fileno())
    honest = other.create("honest", 1000, max_size=1 << 20, seal="writer")
    with honest as second:
        pass
    second.region.resize(1 << 20)
    os.ftruncate(descriptor, 1 << 19)
    os.close(descriptor)
    del builder, second
    with shm.watch("") as watch:
        other.close()
        assert (change := next(watch)).kind == "unlinked"
        assert change.info.name == "log"
    assert [info.name for info in shm.list()] == ["honest"]


def test_creator_that_enlarges_it_before_it_is_published_is_refused(shm: shmclient.Client) -> None:
    making = shm.create("log", 1000, max_size=1 << 20, seal="writer")
    with pytest.raises(shmclient.InvalidArgument, match="changed the size"), making as builder:
        os.ftruncate(builder.fileno(), 1 << 19)


READER = """
import os, signal, sys
import shmclient
with shmclient.connect(sys.argv[1]) as shm, shm.open("log") as region:
    print(len(region.data), flush=True)
    seen = []
    for line in sys.stdin:
        data = region.data
        assert len(data) == region.size and len(shm.get("log")) >= len(data)
        print(len(data), data[-1], flush=True)
"""


def test_reader_in_another_process_follows(host: WatchedHost, shm: shmclient.Client) -> None:
    builder = grown(shm, max_size=64 << 20)
    with subprocess.Popen(
        [sys.executable, "-c", READER, host.socket_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert int(child.stdout.readline()) == builder.size
        for size in (10_000, 1 << 20, 64 << 20):
            builder.region.resize(size)
            builder.data[-1] = size % 251
            child.stdin.write("\n")
            assert child.stdout.readline().split() == [str(builder.size), str(size % 251)]
        child.stdin.close()
        assert child.wait(timeout=30) == 0


WRITER = """
import os, signal, sys
import shmclient
shm = shmclient.connect(sys.argv[1])
with shm.create("log", 1, max_size=1 << 30, seal="writer") as builder:
    pass
print("made", flush=True)
size = builder.size
while True:
    size = builder.region.resize(size + 4096)
    builder.data[-1] = 9
"""


def test_killed_writer_leaves_a_region_that_is_whole(host: WatchedHost, shm: shmclient.Client) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, host.socket_path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        region = shm.open("log")
        while region.size < 1 << 20:
            assert child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
    shm.list()
    assert shm.stat("log").size == region.size == len(region.data)
    sum(region.data[::PAGE])  # no SIGBUS
    assert region.resize(region.size + 1) == region.size  # its user can go on


def test_snapshot_keeps_the_room_to_grow(shm: shmclient.Client, tmp_path: Path) -> None:
    def make() -> None:
        builder = grown(shm)
        builder.region.resize(100_000)
        builder.data[99_999] = 3
        shm.save("log", tmp_path / "f")

    make()
    shm.unlink("log")
    with shm.load(tmp_path / "f") as region:
        assert (region.data[99_999], bytes(region.data[:3])) == (3, b"old")
        assert region.resize(1 << 20) == 1 << 20
        with pytest.raises(shmclient.InvalidArgument):
            region.resize((1 << 20) + 1)


def test_forged_header_harms_the_creator_of_a_shared_region_as_little_as_its_readers(
    shm: shmclient.Client,
) -> None:
    """The creator maps the header page as it is, and all who may write can write it."""
    with shm.create("log", 1000, max_size=1 << 20, seal="shared") as builder:
        builder.array(10, "i4")
        page = mmap.mmap(builder.fileno(), PAGE)
    header = check_header(page[:], builder.capacity)
    behind = header.base + (1 << 19)
    page[:] = header._replace(size=1 << 20, metadata=behind, metadata_size=100).pack()

    def read() -> None:
        for reading in (lambda: shm.get("log"), lambda: builder.region.metadata):
            with pytest.raises(shmclient.BadRegion):
                reading()

    assert in_child(read) == 0


def test_closed_handle_does_not_grow(shm: shmclient.Client) -> None:
    region = grown(shm).region
    size = region.size
    region.close()
    with pytest.raises(shmclient.RegionClosed):
        region.resize(size + 1)
    assert shm.stat("log").size == size


def test_watches_hear_of_it(shm: shmclient.Client) -> None:
    builder = grown(shm)
    with shm.watch("log") as watch:
        builder.region.resize(100_000)
        change = next(watch)
        assert (change.kind, change.info.size) == ("changed", builder.size)


def test_sizes_of_mappings_are_those_of_max_size(shm: shmclient.Client) -> None:
    """So that nothing has to be mapped when it grows: the address behind is taken from the start."""
    builder = grown(shm, max_size=32 << 20)
    info, following = shm.stat("log"), shm.put("x", b"1")
    assert following.address >= info.address + (32 << 20) or following.address < info.address
    assert info.capacity == builder.size + PAGE
    assert mmap.PAGESIZE == PAGE
