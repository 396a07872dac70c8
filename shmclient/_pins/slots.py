"""Slots: pointer-sized variables for addresses, of cffi, ctypes, or in a region. Pure."""

from __future__ import annotations

import sys
from typing import Any

from shmprotocol.native.binding import ffi

POINTER_SIZE = 8


def resolve(slot: Any, part: str | int | None) -> tuple[int, Any]:
    """Return the address of a slot, or of the slot that is a part of it, and what owns its memory.

    TypeError when there is none.
    """
    if isinstance(slot, ffi.CData):
        address = _cffi_slot(slot, part)
    elif type(slot) is int and part is None:
        address = slot
    else:
        address = _ctypes_slot(slot, part)
    if address % POINTER_SIZE or not address:
        raise TypeError(
            f"a slot is at a multiple of {POINTER_SIZE}, where it can be written at once, not at {address:#x}"
        )
    return address, slot


def _cffi_slot(slot: Any, part: str | int | None) -> int:
    kind = ffi.typeof(slot)
    if isinstance(part, str):
        return _cffi_field(slot, kind, part)
    if part is not None:
        return _cffi_element(slot, kind, part)
    if kind.kind != "pointer" or not _is_data_pointer(kind.item):
        raise TypeError(
            f"a {kind.cname!r} is not a slot: pass a pointer to a pointer, such as ffi.new('void **'), "
            "an array of pointers and an index, or a structure and the name of a field"
        )
    return int(ffi.cast("uintptr_t", slot))


def _cffi_field(slot: Any, kind: Any, field: str) -> int:
    struct = kind.item if kind.kind == "pointer" else kind
    member = dict(struct.fields or ()).get(field) if struct.kind in ("struct", "union") else None
    if member is None or not _is_data_pointer(member.type):
        raise TypeError(f"a {kind.cname!r} has no pointer {field!r}, so there is no slot")
    if kind.kind == "pointer" and slot == ffi.NULL:
        raise TypeError(f"a NULL {kind.cname!r} has no field {field!r}, so there is no slot")
    start = slot if kind.kind == "pointer" else ffi.addressof(slot)
    return int(ffi.cast("uintptr_t", start)) + int(member.offset)


def _cffi_element(slot: Any, kind: Any, index: int) -> int:
    is_inside = kind.kind == "array" and 0 <= index < len(slot)
    if not is_inside or not _is_data_pointer(kind.item):
        raise TypeError(f"a {kind.cname!r} has no pointer [{index}], so there is no slot")
    return int(ffi.cast("uintptr_t", slot)) + POINTER_SIZE * index


def _is_data_pointer(kind: Any) -> bool:
    return bool(kind.kind == "pointer" and kind.item.kind != "function")


def _ctypes_slot(slot: Any, part: str | int | None) -> int:
    ctypes = sys.modules.get("ctypes")  # who has an object of it has imported it
    if ctypes is None or not isinstance(slot, ctypes.c_int.__mro__[-2]):
        raise TypeError(f"a {type(slot).__name__} is not a slot: see Pinned.store for the types that are")
    pointers = (ctypes._Pointer, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_wchar_p)
    if isinstance(part, str):
        return _ctypes_field(ctypes, pointers, slot, part)
    if part is not None:
        return _ctypes_element(ctypes, pointers, slot, part)
    if not isinstance(slot, pointers):
        raise TypeError(
            f"a {type(slot).__name__} is not a slot: it is not a pointer. For a structure, name the field"
        )
    if isinstance(slot, ctypes._Pointer) and issubclass(slot._type_, pointers):
        if not slot:
            raise TypeError(f"a NULL {type(slot).__name__} points to no slot")
        slot = slot.contents
    return int(ctypes.addressof(slot))


def _ctypes_element(ctypes: Any, pointers: tuple[type, ...], slot: Any, index: int) -> int:
    is_array = isinstance(slot, ctypes.Array) and issubclass(slot._type_, pointers)
    if not is_array or not 0 <= index < len(slot):
        raise TypeError(f"a {type(slot).__name__} has no pointer [{index}], so there is no slot")
    return int(ctypes.addressof(slot)) + POINTER_SIZE * index


def _ctypes_field(ctypes: Any, pointers: tuple[type, ...], slot: Any, field: str) -> int:
    struct = slot.contents if isinstance(slot, ctypes._Pointer) and slot else slot
    fields = {
        name: kind for base in type(struct).__mro__ for name, kind, *_ in vars(base).get("_fields_", ())
    }  # fmt: skip
    if not issubclass(fields.get(field, int), pointers):
        raise TypeError(f"a {type(slot).__name__} has no pointer {field!r}, so there is no slot")
    return int(ctypes.addressof(struct) + getattr(type(struct), field).offset)
