"""Stores write the address into a slot, and unpin zeroes it. See docs/parity.md."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from pinning_support import FFI, CNode
from shmclient import Pinned, Pinner, PinReleased
from shmclient._pins import pinner as pinning


class CInherited(CNode):
    """A structure with a field of its own and those of its base."""

    _fields_: ClassVar = [("more", ctypes.c_void_p)]


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


def without_address(value: object) -> str:
    """Return the text of an object, the same in each process."""
    return str(value).split(" at 0x")[0]


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
    ids=without_address,
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
    ids=without_address,
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
    before = dict(pinning._stored)  # of pinners that other tests leaked
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
    assert pinning._stored == before


def test_field_of_a_null_structure_is_no_slot(pinner: Pinner) -> None:
    for null in (FFI.cast("struct node *", 0), ctypes.POINTER(CNode)()):
        with pytest.raises(TypeError, match="slot"):
            pinner.pin(b"abc").store(null, "next")
