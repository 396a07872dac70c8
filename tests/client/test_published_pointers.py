"""The pointer check of regions as they are published and opened, and the names of what lives there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import shmclient
from pointer_support import FFI, PRIVATE, new_node, reason, root_of
from shmclient import BadRegion, PointerEscapes, check_pointers, posix, unchecked
from shmhost.core.window import STEP
from support import WatchedHost, count_descriptors, wait_until, watched_host

# --- what lives there


def test_another_region_is_named_since_it_may_go_first(
    shm: shmclient.Client, builder: shmclient.RegionBuilder
) -> None:
    shm.put("other", b"x" * 100).close()
    other = shm.open("other")
    table = root_of(builder)
    table.anything = FFI.cast("void *", other.address + 5000 - 1000)
    assert "which is region 'other', generation 1:" in reason(builder)
    address = other.address
    other.close()
    table.anything = FFI.cast("void *", address)
    assert "an address of the window where this process has no region mapped" in reason(builder)


def test_region_under_construction_and_mappings_are_named(
    shm: shmclient.Client, builder: shmclient.RegionBuilder
) -> None:
    table = root_of(builder)
    with pytest.raises(ZeroDivisionError), shm.create("unfinished", 100) as other:
        table.anything = FFI.cast("void *", other.data_address)
        assert "region 'unfinished' under construction" in reason(builder)
        1 / 0
    fd = posix.memfd_create("x")
    posix.ftruncate(fd, 4096)
    with posix.mmap(0, 4096, posix.PROT_RDWR, posix.MAP_SHARED, fd) as mapping:
        table.anything = FFI.cast("void *", mapping.address + 5)
        assert f"which is <Mapping 4096 bytes at {mapping.address:#x}, shared" in reason(builder)
    posix.close(fd)
    private = np.zeros(1 << 22, np.uint8)
    table.anything = FFI.cast("void *", private.ctypes.data)
    assert re.search(r"private memory of this process \((anonymous|\[heap\])\)", reason(builder))


# --- published regions


def test_published_region_is_checked_by_whoever_opens_it(shm: shmclient.Client) -> None:
    with unchecked(), shm.create("bad", 4096) as builder:
        builder.set_root(new_node(builder, word=PRIVATE))
    with shm.create("good", 4096) as builder:
        builder.set_root(new_node(builder, word=builder.bytes(b"good")))
    with shm.open("good") as good, shm.open("bad") as bad:
        assert check_pointers(good, FFI, "struct node *") == 1
        with pytest.raises(PointerEscapes, match=r"root.word in region 'bad'"):
            check_pointers(bad, FFI, "struct node *")


def test_relocated_region_is_checked_by_its_own_addresses(shm: shmclient.Client, tmp_path: Path) -> None:
    """Two hosts with one window: the second one's region does not get its address here."""
    taken = shm.put("taken", bytes(8192))
    with watched_host(str(tmp_path / "second.sock"), windows=((taken.address, STEP),)) as second:
        taken_address = taken.address
        code = f"""
import cffi, sys, shmclient
ffi = cffi.FFI()
ffi.cdef("struct node {{ struct node *next; const char *word; int number; }};")
with shmclient.connect({second.socket_path!r}) as shm, shm.create("x", 8192) as builder:
    builder.set_root(builder.new(ffi, "struct node *", {{"next": builder.new(ffi, "struct node *")}}))
"""
        subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
        with shmclient.connect(second.socket_path) as other, other.open("x", anywhere=True) as region:
            assert region.header.base == FFI.cast("void *", taken_address)
            assert region.is_relocated
            assert check_pointers(region, FFI, "struct node *") == 2


def test_region_without_a_root_or_with_a_smaller_one_is_refused(shm: shmclient.Client) -> None:
    shm.put("data", b"abc").close()
    with shm.create("small", 100) as builder:
        builder.set_root(builder.new(FFI, "int *"))
    with pytest.raises(BadRegion, match="'data' has no root"):
        check_pointers(shm.open("data"), FFI, "struct node *")
    with pytest.raises(BadRegion, match=r"no root of the 24 bytes of 'struct node': its root has 4"):
        check_pointers(shm.open("small"), FFI, "struct node *")
    with pytest.raises(TypeError, match="a root is a pointer"):
        check_pointers(shm.open("small"), FFI, "struct node")


def test_root_that_is_not_aligned_is_refused(builder: shmclient.RegionBuilder) -> None:
    builder.set_root(FFI.cast("struct node *", builder.alloc(64, 8) + 4))
    with pytest.raises(BadRegion, match="not aligned for 'struct node'"):
        check_pointers(builder, FFI, "struct node *")


# --- publishing


def test_publish_refuses_an_escaping_pointer_and_leaves_nothing(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"the old one").close()
    before = host.counts()
    with pytest.raises(PointerEscapes, match=r"root.buckets\[3\].word"), shm.create("x", 4096) as builder:
        root_of(builder).buckets[3] = new_node(builder, word=PRIVATE)
    del builder
    assert bytes(shm.get("x")) == b"the old one"
    wait_until(lambda: host.counts() == before)
    assert count_descriptors() == before["descriptors"]


def test_publish_checks_the_lengths_of_the_root(shm: shmclient.Client) -> None:
    with pytest.raises(PointerEscapes, match=r"root.nodes\[1\].word"), shm.create("x", 4096) as builder:
        nodes = builder.new(FFI, "struct node[]", [{}, {"word": PRIVATE}])
        table = builder.new(FFI, "struct table *", {"nodes": nodes, "count": 2})
        builder.set_root(table, lengths={"struct table.nodes": "count"})


@pytest.mark.parametrize("ctype", ["void *", "char *", "int *", "struct opaque *", "int[4]"])
def test_publish_takes_roots_that_have_no_pointers(ctype: str, shm: shmclient.Client) -> None:
    with shm.create("x", 100) as builder:
        address = builder.alloc(16)
        root = builder.new(FFI, ctype) if "[" in ctype else FFI.cast(ctype, address)
        if "opaque" in ctype:
            with pytest.raises(TypeError, match="without a definition"):
                builder.set_root(root)
        else:
            builder.set_root(root)
    assert shm.stat("x").generation == 1


@pytest.mark.anyio
async def test_async_publish_checks_too_and_can_be_unchecked(host: WatchedHost) -> None:
    from shmclient import aio

    async with await aio.connect(host.socket_path) as shm:
        with pytest.raises(PointerEscapes):
            async with shm.create("x", 4096) as builder:
                builder.set_root(new_node(builder, word=PRIVATE))
        with unchecked():
            async with shm.create("x", 4096) as builder:
                builder.set_root(new_node(builder, word=PRIVATE))
        assert (await shm.stat("x")).generation == 1
