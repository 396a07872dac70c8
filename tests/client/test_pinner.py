"""Pins hold what they pin until unpin, in every thread and after a fork. See docs/parity.md."""

from __future__ import annotations

import array
import ctypes
import gc
import io
import os
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cffi
import numpy as np
import pytest

import shmclient
import shmhost
from pinning_support import FFI, mapped_file
from shmclient import Pinner, PinReleased
from shmclient._pins import pinner as pinning
from support import WatchedHost, in_child, mapped_addresses, wait_until

# --- that it holds


def test_pin_keeps_every_kind_from_moving_until_unpin_and_no_longer(tmp_path: Path) -> None:
    growing, resized, mapped = bytearray(b"x" * 100), np.zeros(10), mapped_file()
    numbers, stream = array.array("d", [0.0]), io.BytesIO(b"stream")
    attempts: list[Callable[[], object]] = [
        lambda: growing.extend(b"y" * 1000),
        mapped.close,
        lambda: numbers.append(1.0),
        stream.close,
    ]
    pinner = Pinner()
    for obj in (growing, resized, mapped, numbers):
        pinner.pin(obj)
    del obj
    pinner.pin(stream.getbuffer())
    for attempt in attempts:
        with pytest.raises(BufferError):
            attempt()
    with pytest.raises(ValueError, match="references"):
        resized.resize(1000)
    pinner.unpin()
    resized.resize(1000)
    for attempt in attempts:
        attempt()
    assert mapped.closed
    assert stream.closed


class Tracked(bytearray):
    """A buffer whose end can be seen."""


def test_pinned_object_is_not_collected_and_its_twin_is() -> None:
    ends: list[str] = []

    def made(name: str) -> Tracked:
        obj = Tracked(b"some bytes")
        weakref.finalize(obj, ends.append, name)
        return obj

    pinner = Pinner()
    pinned = pinner.pin(made("pinned"))
    made("control")
    gc.collect()
    gc.collect()
    assert ends == ["control"]
    assert ctypes.string_at(pinned.address, pinned.size) == b"some bytes"
    pinner.unpin()
    gc.collect()
    assert ends == ["control", "pinned"]


@pytest.mark.parametrize("count", [1024, 100_000])
def test_one_unpin_frees_all(count: int) -> None:
    buffers = [bytearray(8) for _ in range(count)]
    pinner = Pinner()
    pins = [pinner.pin(buffer) for buffer in buffers]
    assert len(pinner) == count
    with pytest.raises(BufferError):
        buffers[count // 2].append(1)
    pinner.unpin()
    assert len(pinner) == 0
    for buffer in buffers:
        buffer.append(1)
    with pytest.raises(PinReleased):
        pins[0].address


def test_pin_is_in_force_when_it_returns() -> None:
    pinner, buffer = Pinner(), bytearray(8)
    for _ in range(1000):
        pinner.pin(buffer)
        with pytest.raises(BufferError):
            buffer.append(1)
        pinner.unpin()
        buffer.append(1)


def test_pin_of_a_region_keeps_its_mapping_and_its_lease(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    shm.put("x", np.arange(1000)).close()
    pinner = Pinner()
    region = shm.open("x")
    pinned, address = pinner.pin(region), region.address
    assert (pinned.address, pinned.size, pinned.readonly) == (address, region.capacity, True)
    region.close()
    del region
    shm.unlink("x")
    gc.collect()
    assert address in mapped_addresses()
    assert host.counts()["leases"] == 1
    assert ctypes.string_at(pinned.address, 7) == b"SHMHOST"
    pinner.unpin()
    assert address not in mapped_addresses()
    wait_until(lambda: host.counts() == before)


def test_pin_of_a_slice_of_a_region_keeps_it_too(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"0123456789").close()
    with Pinner() as pinner:
        region = shm.open("x")
        pinned = pinner.pin(region.data[3:6])
        region.close()
        del region
        assert ctypes.string_at(pinned.address, pinned.size) == b"345"
        assert host.counts()["leases"] == 1
    wait_until(lambda: host.counts()["leases"] == 0)


@pytest.mark.parametrize("what", ["builder", "data"])
def test_region_under_construction_is_not_published_while_it_is_pinned(
    what: str, shm: shmclient.Client
) -> None:
    pinner = Pinner()
    with pytest.raises(shmclient.RegionBusy), shm.create("x", 100) as builder:
        pinned = pinner.pin(builder if what == "builder" else builder.data)
        assert (pinned.address, pinned.size, pinned.readonly) == (builder.data_address, 100, False)
    pinner.unpin()
    with shm.create("x", 100) as builder:
        pinner.pin(builder)
        pinner.unpin()
    assert shm.stat("x").generation == 1


# --- the life of a Pinner


def test_pinner_needs_nothing_and_can_be_used_again() -> None:
    pinner = Pinner()
    pinner.unpin()
    pinner.unpin()
    buffer = bytearray(3)
    for _ in range(3):
        pinner.pin(buffer)
        pinner.unpin()
        pinner.unpin()
        buffer.append(1)


def test_pinner_unpins_at_the_end_of_a_block_and_blocks_nest() -> None:
    outer_buffer, inner_buffer = bytearray(3), bytearray(3)
    with pytest.raises(ZeroDivisionError), Pinner() as outer:
        outer.pin(outer_buffer)
        with Pinner() as inner:
            inner.pin(inner_buffer)
        inner_buffer.append(1)
        with pytest.raises(BufferError):
            outer_buffer.append(1)
        1 / 0
    outer_buffer.append(1)


@pytest.mark.anyio
async def test_pinner_is_an_async_context_manager() -> None:
    buffer = bytearray(3)
    async with Pinner() as pinner:
        pinner.pin(buffer)
        with pytest.raises(BufferError):
            buffer.append(1)
    buffer.append(1)


# --- threads and forks


def test_pins_stores_and_unpins_of_many_threads_leave_no_address_behind() -> None:  # noqa: C901
    """Random schedules: in the end no slot holds an address, and no buffer is held."""
    pinner, errors = Pinner(), []
    buffers = [bytearray(64) for _ in range(8)]
    slots = FFI.new("void *[8]")
    stop = threading.Event()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            for _ in range(400):
                index = chance.randrange(8)
                pinned = pinner.pin(buffers[index])
                try:
                    pinned.store(slots, index)
                    pinned.store(slots, index)
                except PinReleased:
                    assert pinned not in list(pinner._pins)
                if chance.random() < 0.3:
                    pinner.unpin()
        except BaseException as error:
            errors.append(error)

    def unpin_now_and_then() -> None:
        while not stop.is_set():
            pinner.unpin()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    helper = threading.Thread(target=unpin_now_and_then)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        helper.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        helper.join()
    finally:
        sys.setswitchinterval(interval)
    pinner.unpin()
    assert errors == []
    assert FFI.buffer(slots)[:] == bytes(64)
    for buffer in buffers:
        buffer.append(1)


def test_unpin_waits_for_a_store_that_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    pinner, slot = Pinner(), FFI.new("void **")
    pinned, native = pinner.pin(b"abc"), pinning.lib
    threads: list[threading.Thread] = []

    class Interrupted:
        """As if another thread called `unpin` right before the address is written."""

        def shm_slot_store(self, address: int, value: int) -> None:
            threads.append(threading.Thread(target=pinner.unpin))
            threads[0].start()
            threads[0].join(0.2)
            assert threads[0].is_alive()
            native.shm_slot_store(address, value)

        shm_slot_clear = staticmethod(native.shm_slot_clear)

    monkeypatch.setattr(pinning, "lib", Interrupted())
    pinned.store(slot)
    threads[0].join()
    assert (slot[0], len(pinner)) == (FFI.NULL, 0)


def test_slots_are_zero_before_the_buffer_is_released() -> None:
    """The release runs Python code here, which looks at the slot at that very moment."""
    seen: list[Any] = []
    slot = FFI.new("void **")
    pinner = Pinner()
    obj = Tracked(b"some bytes")
    pinner.pin(obj).store(slot)
    weakref.finalize(obj, lambda: seen.append(slot[0]))
    del obj
    assert slot[0] != FFI.NULL
    pinner.unpin()
    assert seen == [FFI.NULL]


def test_child_of_a_fork_unpins_its_own_copy_and_not_the_slots_of_its_parent(shm: shmclient.Client) -> None:
    buffer = bytearray(b"abc")
    with shm.create("x", 4096) as builder:
        with Pinner() as pinner:
            shared = builder.new(FFI, "void *[1]")
            private = FFI.new("void **")
            inside = pinner.pin(builder.data[100:110])
            inside.store(FFI.addressof(shared, 0))
            pinner.pin(buffer).store(private)

            def child() -> None:
                pinner.unpin()
                assert private[0] == FFI.NULL
                buffer.append(1)

            assert in_child(child) == 0
            assert int(FFI.cast("uintptr_t", shared[0])) == inside.address
            assert private[0] != FFI.NULL
        assert shared[0] == FFI.NULL
        inside = shared = None


def test_fork_while_other_threads_store_leaves_no_lock_behind() -> None:
    stop = threading.Event()
    slot = FFI.new("void **")

    def busy() -> None:
        with Pinner() as pinner:
            while not stop.is_set():
                pinner.pin(b"abc").store(slot)
                pinner.unpin()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        own = FFI.new("void **")
        with Pinner() as pinner:
            pinner.pin(b"abc").store(own)
        assert own[0] == FFI.NULL

    try:
        assert [in_child(child) for _ in range(20)] == [0] * 20
    finally:
        stop.set()
        for thread in threads:
            thread.join()


# --- the whole


def test_missing_native_module_is_an_import_error_that_says_what_to_do(tmp_path: Path) -> None:
    for package in ("shmprotocol", "shmclient"):
        source = Path(sys.modules[package].__file__ or "").parent
        target = tmp_path / package
        for path in source.rglob("*.py"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    # Without site, whose hooks would find the installed packages first.
    program = "import sys; sys.path[:0] = sys.argv[1:]; import shmclient"
    result = subprocess.run(
        [sys.executable, "-S", "-c", program, str(tmp_path), str(Path(cffi.__file__).parent.parent)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "the compiled part of shmprotocol is missing" in result.stderr.splitlines()[-1]


def test_pins_need_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMHOST_SOCKET", "/nonexistent")
    with Pinner() as pinner:
        assert pinner.pin(b"abc").size == 3


def test_pins_of_a_host_that_is_gone_stay_readable() -> None:
    with Pinner() as pinner:
        with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
            shm.put("x", b"still here").close()
            pinned = pinner.pin(shm.open("x").data)
        assert ctypes.string_at(pinned.address, pinned.size) == b"still here"


def test_descriptors_and_memory_are_back_after_many_pins() -> None:
    before = len(os.listdir("/proc/self/fd"))
    objects = [bytearray(10) for _ in range(100)]
    counts = [sys.getrefcount(obj) for obj in objects]
    for _ in range(50):
        with Pinner() as pinner:
            for index in range(100):
                pinner.pin(objects[index])
            pinner.iovec(objects)
    assert [sys.getrefcount(obj) for obj in objects] == counts
    assert len(os.listdir("/proc/self/fd")) <= before  # one of an earlier test may go meanwhile
