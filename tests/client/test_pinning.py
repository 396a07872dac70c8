"""Pins hold what they pin, slots are zeroed before it goes, and leaks are told. P1-P34 of docs/parity.md."""

from __future__ import annotations

import array
import ctypes
import gc
import io
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cffi
import numpy as np
import pytest

import shmclient
import shmhost
from shmclient import Pinned, Pinner, PinReleased
from shmclient._pins import pinner as pinning
from support import WatchedHost, in_child, mapped_addresses, wait_until

FFI = cffi.FFI()
FFI.cdef(
    """
    struct node { int number; struct node *next; const char *word; unsigned char *bytes; int (*call)(int); };
    union both { void *pointer; int number; };
    struct iovec { void *iov_base; size_t iov_len; };
    """
)


class CNode(ctypes.Structure):
    """The same for ctypes."""

    _fields_ = [
        ("number", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("word", ctypes.c_char_p),
        ("bytes", ctypes.POINTER(ctypes.c_ubyte)),
    ]


class CInherited(CNode):
    """A structure with a field of its own and those of its base."""

    _fields_ = [("more", ctypes.c_void_p)]


@pytest.fixture
def pinner() -> Iterator[Pinner]:
    with Pinner() as made:
        yield made


def address_of(obj: Any) -> int:
    """Return where the buffer of an object is, found in another way than the pins do."""
    return int(np.frombuffer(obj, np.uint8).ctypes.data)


# --- what can be pinned


def mapped_file() -> mmap.mmap:
    return mmap.mmap(-1, 4096)


BUFFERS: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"some bytes",
    "bytearray": lambda: bytearray(b"some bytes"),
    "memoryview": lambda: memoryview(bytearray(b"some bytes"))[2:6],
    "ndarray": lambda: np.arange(12.0).reshape(3, 4),
    "fortran": lambda: np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "read-only ndarray": lambda: np.frombuffer(b"some bytes", np.uint8),
    "array": lambda: array.array("d", [1.0, 2.0]),
    "mmap": mapped_file,
    "ctypes array": lambda: (ctypes.c_int * 5)(1, 2, 3),
    "ctypes structure": lambda: CNode(7),
    "BytesIO": lambda: io.BytesIO(b"some bytes").getbuffer(),
}


@pytest.mark.parametrize("kind", BUFFERS)
def test_pin_gives_address_size_and_whether_it_is_read_only(kind: str, pinner: Pinner) -> None:
    obj = BUFFERS[kind]()
    view = memoryview(obj)
    pinned = pinner.pin(obj)
    flat = obj.ravel(order="K") if kind == "fortran" else obj
    assert (pinned.address, pinned.size) == (address_of(flat), view.nbytes)
    assert pinned.readonly == view.readonly
    assert ctypes.string_at(pinned.address, pinned.size) == view.tobytes(order="A")


@pytest.mark.parametrize(
    ("made", "size"),
    [
        (lambda: FFI.new("struct node *"), FFI.sizeof("struct node")),
        (lambda: FFI.new("int[5]"), 20),
        (lambda: FFI.new("int[]", 7), 28),
        (lambda: FFI.new("struct node *")[0], FFI.sizeof("struct node")),
        (lambda: FFI.new("union both *"), 8),
    ],
)
def test_pin_takes_what_cffi_made(made: Callable[[], Any], size: int, pinner: Pinner) -> None:
    cdata = made()
    whole = FFI.addressof(cdata) if FFI.typeof(cdata).kind == "struct" else cdata
    address = int(FFI.cast("uintptr_t", whole))
    pinned = pinner.pin(cdata)
    assert (pinned.address, pinned.size, pinned.readonly) == (address, size, False)
    FFI.memmove(FFI.cast("char *", address), b"x" * size, size)
    del cdata, whole
    gc.collect()
    assert ctypes.string_at(pinned.address, size) == b"x" * size


@pytest.mark.parametrize("obj", [5, None, "text", object(), [1], 1.5, lambda: 0, FFI.NULL])
def test_pin_of_what_has_no_buffer_is_a_type_error_that_names_the_type(obj: object, pinner: Pinner) -> None:
    with pytest.raises(TypeError, match="cannot pin"):
        pinner.pin(obj)
    with pytest.raises(TypeError, match=type(obj).__name__ if obj is not FFI.NULL else "NULL"):
        pinner.pin(obj)
    assert len(pinner) == 0


def test_pin_refuses_what_is_not_contiguous_and_what_was_released(pinner: Pinner) -> None:
    with pytest.raises(BufferError, match="not contiguous"):
        pinner.pin(np.arange(10)[::2])
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(ValueError, match="released"):
        pinner.pin(view)


@pytest.mark.parametrize("empty", [b"", bytearray(), np.zeros(0), memoryview(b"abc")[3:]])
def test_empty_buffer_has_address_0_and_can_be_stored(empty: Any, pinner: Pinner) -> None:
    pinned = pinner.pin(empty)
    slot = FFI.new("void **", FFI.cast("void *", 1))
    pinned.store(slot)
    assert (pinned.address, pinned.size, slot[0]) == (0, 0, FFI.NULL)


class Pair(NamedTuple):
    """Two buffers, or their pins."""

    left: Any
    right: Any


def test_graph_of_buffers_is_pinned_as_a_whole(pinner: Pinner) -> None:
    parts = [bytearray(b"a"), bytearray(b"bc"), bytearray(b"def")]
    pins = pinner.pin_graph({"first": parts[0], "rest": [parts[1], (parts[2],)]})
    assert [pins["first"].size, pins["rest"][0].size, pins["rest"][1][0].size] == [1, 2, 3]
    for part in parts:
        with pytest.raises(BufferError):
            part.append(1)
    named = pinner.pin_graph(Pair(bytearray(b"a"), [b"bc"]))
    assert isinstance(named, Pair)
    assert (named.left.size, named.right[0].size) == (1, 2)
    with pytest.raises(TypeError, match="cannot pin a int"):
        pinner.pin_graph([b"abc", {"x": 5}])


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


# --- stores


def slot_kinds() -> dict[str, tuple[Callable[[Pinned], Callable[[], int]], type]]:
    """Return for each kind of slot a function that stores into one and returns how to read it."""

    def cffi_slot(pinned: Pinned, ctype: str) -> Callable[[], int]:
        slot = FFI.new(ctype)
        pinned.store(slot)
        return lambda: int(FFI.cast("uintptr_t", slot[0]))

    def cffi_field(pinned: Pinned, field: str, value: bool) -> Callable[[], int]:
        node = FFI.new("struct node *", {"number": 5})
        pinned.store(node[0] if value else node, field)
        return lambda: int(FFI.cast("uintptr_t", getattr(node, field)))

    def cffi_element(pinned: Pinned) -> Callable[[], int]:
        slots = FFI.new("void *[4]")
        pinned.store(slots, 2)
        return lambda: int(FFI.cast("uintptr_t", slots[2]))

    def cffi_index(pinned: Pinned) -> Callable[[], int]:
        slots = FFI.new("void *[4]")
        pinned.store(slots, 2)
        return lambda: int(FFI.cast("uintptr_t", slots[2]))

    def ctypes_index(pinned: Pinned) -> Callable[[], int]:
        slots = (ctypes.c_void_p * 4)()
        pinned.store(slots, 3)
        return lambda: slots[3] or 0

    def ctypes_slot(pinned: Pinned, kind: Any) -> Callable[[], int]:
        slot = kind()
        pinned.store(slot)
        return lambda: ctypes.cast(slot, ctypes.c_void_p).value or 0

    def ctypes_target(pinned: Pinned) -> Callable[[], int]:
        slot = ctypes.c_void_p()
        pinned.store(ctypes.pointer(slot))
        return lambda: slot.value or 0

    def ctypes_field(pinned: Pinned, field: str, pointer: bool) -> Callable[[], int]:
        node = CInherited(5)
        pinned.store(ctypes.pointer(node) if pointer else node, field)
        offset = getattr(CInherited, field).offset
        return lambda: ctypes.c_uint64.from_buffer(node, offset).value

    return {
        **{
            ctype: (lambda p, c=ctype: cffi_slot(p, c))
            for ctype in ("void **", "char **", "unsigned char **")
        },
        "struct **": lambda p: cffi_slot(p, "struct node **"),
        "field void": lambda p: cffi_field(p, "next", False),
        "field char": lambda p: cffi_field(p, "word", True),
        "field uint8": lambda p: cffi_field(p, "bytes", False),
        "element": cffi_element,
        "index": cffi_index,
        "ctypes index": ctypes_index,
        "c_void_p": lambda p: ctypes_slot(p, ctypes.c_void_p),
        "c_char_p": lambda p: ctypes_slot(p, ctypes.c_char_p),
        "POINTER": lambda p: ctypes_slot(p, ctypes.POINTER(ctypes.c_ubyte)),
        "pointer to c_void_p": ctypes_target,
        "ctypes field": lambda p: ctypes_field(p, "next", False),
        "ctypes field c_char_p": lambda p: ctypes_field(p, "word", True),
        "ctypes field POINTER": lambda p: ctypes_field(p, "bytes", False),
        "ctypes inherited": lambda p: ctypes_field(p, "more", False),
    }  # type: ignore[dict-item]


SLOTS: dict[str, Any] = slot_kinds()


@pytest.mark.parametrize("kind", SLOTS)
def test_store_writes_the_address_and_unpin_zeroes_it(kind: str) -> None:
    pinner = Pinner()
    pinned = pinner.pin(bytearray(b"some bytes"))
    address = pinned.address
    read = SLOTS[kind](pinned)
    gc.collect()  # a slot that owns its memory is kept by the pin
    assert read() == address
    pinner.unpin()
    assert read() == 0


@pytest.mark.parametrize(
    "slot",
    [
        5.0,
        "slot",
        None,
        bytearray(8),
        FFI.new("int *"),
        FFI.new("struct node *"),
        FFI.new("void *[4]"),
        FFI.new("int(**)(int)"),
        FFI.cast("void **", 0),
        FFI.cast("void **", 0x1001),
        ctypes.c_int(),
        CNode(),
        ctypes.POINTER(ctypes.c_void_p)(),
        True,
        0,
        12,
    ],
    ids=str,
)
def test_store_to_what_is_no_slot_is_a_type_error(slot: object, pinner: Pinner) -> None:
    with pytest.raises(TypeError, match="slot"):
        pinner.pin(b"abc").store(slot)


@pytest.mark.parametrize(
    ("struct", "field"),
    [
        (FFI.new("struct node *"), "number"),
        (FFI.new("struct node *"), "missing"),
        (FFI.new("struct node *"), "call"),
        (FFI.new("int *"), "number"),
        (FFI.new("void *[4]"), 4),
        (FFI.new("void *[4]"), -1),
        (FFI.new("int[4]"), 1),
        (FFI.new("void **"), 0),
        ((ctypes.c_void_p * 4)(), 4),
        ((ctypes.c_int * 4)(), 0),
        (ctypes.c_void_p(), 0),
        (CNode(), "number"),
        (CNode(), "missing"),
        (ctypes.c_int(), "number"),
        (5, "number"),
        (object(), "number"),
    ],
    ids=str,
)
def test_store_to_a_part_that_is_no_pointer_is_a_type_error(
    struct: object, field: str | int, pinner: Pinner
) -> None:
    with pytest.raises(TypeError, match="slot"):
        pinner.pin(b"abc").store(struct, field)


def test_one_pin_is_stored_in_many_slots(pinner: Pinner) -> None:
    slots = FFI.new("void *[1024]")
    pinned = pinner.pin(b"abc")
    for index in range(1024):
        pinned.store(slots, index)
    assert {int(FFI.cast("uintptr_t", slot)) for slot in slots} == {pinned.address}
    pinner.unpin()
    assert FFI.buffer(slots)[:] == bytes(8 * 1024)


def test_unpin_zeroes_a_slot_that_native_code_moved_on_and_leaves_what_is_not_ours() -> None:
    pinner, slots = Pinner(), FFI.new("char *[4]")
    pinned = pinner.pin(b"0123456789")
    for index in range(4):
        pinned.store(slots, index)
    slots[1] += 4  # as a C function does that reads on
    slots[2] += 10  # up to the end
    other = FFI.new("char[1]")
    slots[3] = other
    pinner.unpin()
    assert [int(FFI.cast("uintptr_t", slot)) for slot in slots] == [
        0,
        0,
        0,
        int(FFI.cast("uintptr_t", other)),
    ]


def test_unpin_of_one_pin_leaves_the_others(pinner: Pinner) -> None:
    first, second = pinner.pin(bytearray(3)), pinner.pin(bytearray(3))
    slots = FFI.new("void *[2]")
    first.store(slots, 0)
    second.store(slots, 1)
    first.unpin()
    first.unpin()
    assert (slots[0], len(pinner)) == (FFI.NULL, 1)
    assert int(FFI.cast("uintptr_t", slots[1])) == second.address


def test_store_after_unpin_raises_and_writes_nothing() -> None:
    pinner, slot = Pinner(), FFI.new("void **")
    pinned = pinner.pin(b"abc")
    pinner.unpin()
    with pytest.raises(PinReleased, match="released"):
        pinned.store(slot)
    assert slot[0] == FFI.NULL
    assert "released" in repr(pinned)
    for name in ("address", "size", "readonly"):
        with pytest.raises(PinReleased):
            getattr(pinned, name)


def test_slot_belongs_to_the_pin_that_stored_last() -> None:
    buffer, pinner, slot = bytearray(128), Pinner(), FFI.new("void **")
    view = memoryview(buffer)
    first, second, third = pinner.pin(view[:64]), pinner.pin(view[64:]), pinner.pin(view[64:])
    first.store(slot)
    second.store(slot)
    first.unpin()  # its end is where the second begins
    assert int(FFI.cast("uintptr_t", slot[0])) == second.address
    third.store(slot)
    second.unpin()
    assert int(FFI.cast("uintptr_t", slot[0])) == third.address
    third.unpin()
    assert slot[0] == FFI.NULL


def test_exception_inside_of_unpin_loses_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a handler of Ctrl-C raises one at any point."""
    pinner, buffer, slots, native = Pinner(), bytearray(3), FFI.new("void *[5]"), pinning.lib
    pinned = pinner.pin(buffer)
    for index in range(5):
        pinned.store(slots, index)

    class Interrupted:
        calls = 0

        def shm_slot_clear(self, *arguments: int) -> None:
            Interrupted.calls += 1
            if Interrupted.calls == 3:
                raise KeyboardInterrupt
            native.shm_slot_clear(*arguments)

    monkeypatch.setattr(pinning, "lib", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        pinner.unpin()
    with pytest.raises(BufferError):
        buffer.append(1)
    pinner.unpin()
    assert list(slots) == [FFI.NULL] * 5
    buffer.append(1)
    assert pinning._stored == {}


def test_field_of_a_null_structure_is_no_slot(pinner: Pinner) -> None:
    for null in (FFI.cast("struct node *", 0), ctypes.POINTER(CNode)()):
        with pytest.raises(TypeError, match="slot"):
            pinner.pin(b"abc").store(null, "next")


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


# --- leaks


@pytest.fixture
def leaks(monkeypatch: pytest.MonkeyPatch) -> list[pinning.Leak]:
    found: list[pinning.Leak] = []
    monkeypatch.setattr(pinning, "on_leak", found.append)
    return found


def test_leak_is_told_with_the_line_that_made_the_pinner_and_nothing_dangles(
    leaks: list[pinning.Leak],
) -> None:
    buffer, slot, before = bytearray(b"abc"), FFI.new("void **"), pinning.leaked()
    pinner = Pinner()
    line = sys._getframe().f_lineno - 1
    pinner.pin(buffer).store(slot)
    pinner.iovec([buffer])
    del pinner
    gc.collect()
    assert leaks == [pinning.Leak(__file__, line, 2)]
    assert pinning.leaked() == before + 2
    with pytest.raises(BufferError):
        buffer.append(1)
    assert FFI.buffer(slot[0], 3)[:] == b"abc"


def test_pinner_that_holds_nothing_leaks_nothing(leaks: list[pinning.Leak]) -> None:
    Pinner()
    used = Pinner()
    used.pin(b"abc")
    used.unpin()
    del used
    gc.collect()
    assert leaks == []


def test_leak_is_a_resource_warning_and_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Pinner().pin(b"abc")
        gc.collect()
    line = sys._getframe().f_lineno - 2
    assert [(item.category, item.filename, item.lineno) for item in caught] == [
        (ResourceWarning, __file__, line)
    ]
    assert f"{__file__}:{line} was collected with 1 pins" in caplog.text


STRICT = "from shmclient import Pinner; {}\nprint('alive')"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("Pinner(strict=True).pin(b'abc')", -signal.SIGABRT),
        ("p = Pinner(strict=True); p.pin(b'abc'); p.unpin(); del p", 0),
        ("Pinner().pin(b'abc')", 0),
        ("p = Pinner(strict=True); p.pin(b'abc')", 0),  # the end of the process is no leak
    ],
)
def test_leak_ends_the_process_in_strict_mode_alone(program: str, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STRICT.format(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert result.returncode == code, result.stderr
    assert ("alive" in result.stdout) == (code == 0)
    assert ("was collected with 1 pins" in result.stderr) == (
        program.endswith("pin(b'abc')") and " p." not in program
    )


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


def test_child_of_a_fork_reports_no_leak_of_its_parent(leaks: list[pinning.Leak]) -> None:
    held = [Pinner()]
    held[0].pin(b"abc")

    def child() -> None:
        held.clear()
        gc.collect()
        assert leaks == []

    assert in_child(child) == 0
    held[0].unpin()


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
    assert len(os.listdir("/proc/self/fd")) == before
