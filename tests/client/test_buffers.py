"""What can be pinned: every kind of buffer, regions, and what owns an address. See docs/parity.md."""

from __future__ import annotations

import array
import ctypes
import gc
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from pinning_support import FFI, CNode, mapped_file
from shmclient import Pinner


def address_of(obj: Any) -> int:
    """Return where the buffer of an object is, found in another way than the pins do."""
    return int(np.frombuffer(obj, np.uint8).ctypes.data)


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
    ("factory", "size"),
    [
        (lambda: FFI.new("struct node *"), FFI.sizeof("struct node")),
        (lambda: FFI.new("int[5]"), 20),
        (lambda: FFI.new("int[]", 7), 28),
        (lambda: FFI.new("struct node *")[0], FFI.sizeof("struct node")),
        (lambda: FFI.new("union both *"), 8),
    ],
)
def test_pin_takes_what_cffi_made(factory: Callable[[], Any], size: int, pinner: Pinner) -> None:
    cdata = factory()
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
