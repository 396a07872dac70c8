"""Stores into regions and mappings take what lasts as long, and nothing else; `unchecked` allows all."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

import shmclient
from pointer_support import FFI
from shmclient import InvalidArgument, Pinner, PointerEscapes, posix, unchecked
from shmclient._pointers.check import is_checking
from shmhost.core.window import STEP
from support import watched_host

# --- stores


def test_store_into_a_region_takes_what_lasts_as_long(
    shm: shmclient.Client, builder: shmclient.RegionBuilder
) -> None:
    shm.put("other", b"lasting").close()
    slots = builder.new(FFI, "void *[2]")
    with Pinner() as pinner:
        inside, other = pinner.pin(builder.data[1000:1010]), pinner.pin(shm.open("other").data)
        inside.store(FFI.addressof(slots, 0))
        other.store(int(FFI.cast("uintptr_t", FFI.addressof(slots, 1))))
        pinner.pin(b"").store(FFI.addressof(slots, 1))
        other.store(FFI.addressof(slots, 1))
        assert [int(FFI.cast("uintptr_t", slot)) for slot in slots] == [inside.address, other.address]
    assert list(slots) == [FFI.NULL, FFI.NULL]


def test_store_of_what_does_not_last_escapes_and_writes_nothing(
    shm: shmclient.Client, builder: shmclient.RegionBuilder
) -> None:
    slots = builder.new(FFI, "void *[1]")
    slot = FFI.addressof(slots, 0)
    with Pinner() as pinner:
        pinned = pinner.pin(bytearray(b"private"))
        where = f"the slot {int(FFI.cast('uintptr_t', slot)):#x} in region 'table' under construction"
        with pytest.raises(PointerEscapes, match=f"{where} would hold {pinned.address:#x}, which is private"):
            pinned.store(slot)
        with pytest.raises(ZeroDivisionError), shm.create("unfinished", 100) as other:
            with pytest.raises(PointerEscapes, match="region 'unfinished' under construction"):
                pinner.pin(other.data).store(slot)
            1 / 0
        assert slots[0] == FFI.NULL
        with unchecked():
            pinned.store(slot)
        assert int(FFI.cast("uintptr_t", slots[0])) == pinned.address
    assert slots[0] == FFI.NULL


def test_store_into_a_shared_mapping_is_checked_and_into_a_private_one_is_not() -> None:
    fd = posix.memfd_create("x")
    posix.ftruncate(fd, 4096)
    with (
        posix.mmap(0, 4096, posix.PROT_RDWR, posix.MAP_SHARED, fd) as shared,
        posix.mmap(0, 4096, posix.PROT_RDWR, posix.MAP_PRIVATE, fd) as private,
        Pinner() as pinner,
    ):
        pinned = pinner.pin(bytearray(b"private"))
        pinned.store(FFI.cast("void **", private.address))
        with pytest.raises(PointerEscapes, match="<Mapping 4096 bytes"):
            pinned.store(FFI.cast("void **", shared.address))
        pinner.pin(shared.buffer[100:200]).store(FFI.cast("void **", shared.address))
        with pytest.raises(BufferError):
            posix.munmap(shared)
        pinner.unpin()
    posix.close(fd)


def test_store_where_nothing_may_be_written_is_refused(
    shm: shmclient.Client, builder: shmclient.RegionBuilder
) -> None:
    shm.put("other", b"x" * 64).close()
    region = shm.open("other")
    with Pinner() as pinner:
        pinned = pinner.pin(builder.data[100:110])
        for address in (region.address + 4096, builder.address, builder.address + 4088):
            with pytest.raises(InvalidArgument, match="cannot be written"):
                pinned.store(address)


def test_region_with_a_stored_slot_is_not_published_before_unpin(shm: shmclient.Client) -> None:
    pinner = Pinner()
    with pytest.raises(shmclient.RegionBusy), shm.create("x", 4096) as builder:
        slots = builder.new(FFI, "void *[1]")
        pinned = pinner.pin(shm.put("other", b"lasting"))
        pinned.store(FFI.addressof(slots, 0))
    pinner.unpin()


def test_store_of_a_relocated_region_escapes(shm: shmclient.Client, tmp_path: Path) -> None:
    """Its address is of this process alone."""
    taken = shm.put("taken", bytes(8192))
    with watched_host(str(tmp_path / "second.sock"), windows=((taken.address, STEP),)) as second:
        command = [
            sys.executable,
            "-m",
            "shmclient",
            "put",
            "--socket",
            second.socket_path,
            "x",
            __file__,
        ]
        subprocess.run(command, check=True, timeout=30)
        assert taken.address
        with (
            shmclient.connect(second.socket_path) as other,
            other.open("x", anywhere=True) as region,
            Pinner() as pinner,
            pytest.raises(PointerEscapes, match="region 'x'"),
            shm.create("slots", 4096) as builder,
        ):
            assert region.is_relocated
            pinner.pin(region).store(builder.alloc(8, 8))


def test_writer_goes_on_storing_and_its_readers_go_on_pinning(shm: shmclient.Client) -> None:
    with shm.create("w", 4096, seal="writer") as writer:
        slot = writer.alloc(8, 8)
    with Pinner() as pinner:
        shm.open("w").close()  # the last who mapped the same range, and gone
        pinner.pin(writer.data[100:200]).store(slot)
        pinner.unpin()
        reader = shm.open("w")
        writer_address = writer.address
        writer.region = None
        del writer
        with pytest.raises(ZeroDivisionError), shm.create("slots", 4096) as builder:
            pinner.pin(reader).store(builder.alloc(8, 8))
            assert reader.address == writer_address
            pinner.unpin()
            1 / 0


# --- unchecked


def test_unchecked_blocks_nest_and_end_with_an_exception() -> None:
    for _ in range(2):
        assert is_checking()
        with pytest.raises(ZeroDivisionError), unchecked():
            with unchecked():
                assert not is_checking()
            assert not is_checking()
            1 / 0
        assert is_checking()


def test_unchecked_holds_in_no_other_thread() -> None:
    seen: list[bool] = []
    with unchecked():
        thread = threading.Thread(target=lambda: seen.append(is_checking()))
        thread.start()
        thread.join()
    assert seen == [True]


@pytest.mark.anyio
async def test_unchecked_holds_in_no_other_task() -> None:
    inside, outside = anyio.Event(), anyio.Event()
    seen: list[bool] = []

    async def other() -> None:
        await inside.wait()
        seen.append(is_checking())
        outside.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        with unchecked():
            inside.set()
            await outside.wait()
            assert not is_checking()
    assert seen == [True]
