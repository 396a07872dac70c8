"""Structs of Arrow's that no writer wrote, or that lie, are a bad region, and no library ever sees them."""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shmclient
from shmclient import Arena, _codecs
from shmprotocol.native.builtins import ArenaOwner

pa = pytest.importorskip("pyarrow")

from arrow_support import arrays, stored  # noqa: E402
from shmclient._codecs.arrow_source import VIEW, Schema, read_array, read_source  # noqa: E402

LENGTH, NULLS, OFFSET, BUFFER_COUNT, CHILD_COUNT, BUFFERS, CHILDREN, DICTIONARY = range(
    8
)  # words of an ArrowArray
TEXTS = pa.array(["one", None, "three", "four"])
LISTS = pa.array([[1, 2], None, [3]])


class Forged:
    """A payload whose words can be changed by what they are in C."""

    def __init__(self, value: object) -> None:
        self.metadata, self.payload = stored(value)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.payload))

    def word(self, offset: int) -> int:
        return int(struct.unpack_from("<q", self.payload, offset)[0])

    def set(self, offset: int, number: int) -> None:
        struct.pack_into("<q", self.payload, offset, number)

    def at(self, offset: int) -> int:
        """Return the offset of what a pointer at this offset leads to."""
        return self.word(offset) - self.start

    @property
    def schema(self) -> int:
        return self.at(24)

    @property
    def array(self) -> int:
        return self.at(32)

    def child(self, number: int = 0) -> int:
        return self.at(self.at(self.array + 8 * CHILDREN) + 8 * number)

    def buffer(self, number: int) -> int:
        """Return the offset of the pointer to a buffer of the array."""
        return self.at(self.array + 8 * BUFFERS) + 8 * number

    def read(self) -> Any:
        return _codecs.decode(self.metadata, self.payload)


def forge_array(word: int, number: int) -> Any:
    return lambda forged: forged.set(forged.array + 8 * word, number)


def forge_buffer(number: int, beyond: int) -> Any:
    """Have a buffer start `beyond` bytes behind the end, or before the start if that is negative."""
    return lambda forged: forged.set(
        forged.buffer(number), forged.start + (len(forged.payload) if beyond >= 0 else 0) + beyond
    )


def forge_format(text: bytes) -> Any:
    return lambda forged: struct.pack_into("8s", forged.payload, forged.at(forged.schema), text)


def forge_last_offset(number: int) -> Any:
    return lambda forged: struct.pack_into("<i", forged.payload, forged.at(forged.buffer(1)) + 16, number)


def _cycle(forged: Forged) -> None:
    forged.set(forged.at(forged.array + 8 * CHILDREN), forged.start + forged.array)


def _schema_cycle(forged: Forged) -> None:
    forged.set(forged.at(forged.schema + 40), forged.start + forged.schema)


HOSTILE: dict[str, tuple[Any, Any]] = {
    "magic": (TEXTS, lambda forged: forged.set(0, 1)),
    "version": (TEXTS, lambda forged: struct.pack_into("<I", forged.payload, 8, 2)),
    "self elsewhere": (TEXTS, lambda forged: forged.set(16, 0)),
    "schema nowhere": (TEXTS, lambda forged: forged.set(24, 0)),
    "schema in this process": (TEXTS, lambda forged: forged.set(24, id(forged))),
    "batches behind the end": (TEXTS, lambda forged: forged.set(32, forged.start + len(forged.payload) - 40)),
    "batches not aligned": (TEXTS, lambda forged: forged.set(32, forged.word(32) + 4)),
    "more batches than there is room for": (TEXTS, lambda forged: forged.set(40, 1 << 60)),
    "fewer batches than none": (TEXTS, lambda forged: forged.set(40, -1)),
    "one array of none": (TEXTS, lambda forged: forged.set(40, 0)),
    "another length in all": (TEXTS, lambda forged: forged.set(48, 5)),
    "format": (TEXTS, forge_format(b"q\0")),
    "format without an end": (
        TEXTS,
        lambda forged: forged.payload.__setitem__(
            slice(forged.schema, None), b"u" * (len(forged.payload) - forged.schema)
        ),
    ),
    "width that is no number": (TEXTS, forge_format(b"w:-1\0")),
    "type of other buffers": (TEXTS, forge_format(b"l\0")),
    "type with children": (TEXTS, forge_format(b"+l\0")),
    "metadata that ends beyond": (
        TEXTS,
        lambda forged: forged.set(forged.schema + 16, forged.start + len(forged.payload) // 8 * 8 - 8),
    ),
    "length": (TEXTS, forge_array(LENGTH, 1 << 50)),
    "length below zero": (TEXTS, forge_array(LENGTH, -1)),
    "length that overflows": (TEXTS, forge_array(LENGTH, (1 << 63) - 1)),
    "offset": (TEXTS, forge_array(OFFSET, 1000)),
    "offset below zero": (TEXTS, forge_array(OFFSET, -8)),
    "more nulls than items": (TEXTS, forge_array(NULLS, 5)),
    "buffers nowhere": (TEXTS, forge_array(BUFFERS, 0)),
    "fewer buffers": (TEXTS, forge_array(BUFFER_COUNT, 2)),
    "more buffers": (TEXTS, forge_array(BUFFER_COUNT, 1 << 40)),
    "buffer behind the end": (TEXTS, forge_buffer(2, 8)),
    "buffer before the start": (TEXTS, forge_buffer(1, -64)),
    "nulls without validity": (TEXTS, lambda forged: forged.set(forged.buffer(0), 0)),
    "text that ends beyond": (TEXTS, forge_last_offset(1 << 20)),
    "text that ends before it starts": (TEXTS, forge_last_offset(-1)),
    "dictionary without one in the schema": (
        TEXTS,
        lambda forged: forged.set(forged.array + 56, forged.word(32)),
    ),
    "child too short": (LISTS, lambda forged: forged.set(forged.child(), 2)),
    "children nowhere": (LISTS, forge_array(CHILDREN, 8)),
    "child nowhere": (LISTS, lambda forged: forged.set(forged.at(forged.array + 8 * CHILDREN), 0)),
    "no children": (LISTS, forge_array(CHILD_COUNT, 0)),
    "child that is its parent": (LISTS, _cycle),
    "type that is its own child": (LISTS, _schema_cycle),
    "view of a buffer that ends beyond": (
        pa.array(["a text that is longer than a view"], pa.string_view()),
        lambda forged: forged.set(forged.at(forged.buffer(3)), 1 << 40),
    ),
    "runs that end early": (
        pa.RunEndEncodedArray.from_arrays([3, 7], ["a", "b"]),
        forge_array(LENGTH, 8),
    ),
    "fixed list of too few": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), forge_format(b"+w:3\0")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_forged_struct_is_a_bad_region(kind: str) -> None:
    value, forge = HOSTILE[kind]
    forged = Forged(value)
    assert pa.array(forged.read()).equals(value)
    forge(forged)
    with pytest.raises(shmclient.BadRegion, match=r"corrupt|another version"):
        forged.read()


@given(arrays(), st.data())
@settings(deadline=None)
def test_any_word_may_be_any_number(array: Any, data: st.DataObject) -> None:
    forged = Forged(array)
    images = len(forged.payload) // 8 * 8
    numbers = st.sampled_from([0, 1, -1, 7, 8, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63)])
    places = st.integers(-1, 40).map(lambda number: forged.start + 8 * number)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(images, 800) // 8 - 1))
        forged.set(8 * at, data.draw(numbers | places | st.integers(-(2**63), 2**63 - 1)))
    try:
        value = forged.read()
    except shmclient.BadRegion:
        return
    source = read_source(value)
    for address in source.batches:
        assert all(
            0 <= buffer - forged.start <= len(forged.payload) for buffer in _places(source.schema, address)
        )
    with contextlib.suppress(pa.ArrowException, ValueError, TypeError, KeyError, NotImplementedError):
        pa.chunked_array(value)  # names, metadata and types are pyarrow's affair; it must not crash


def _places(schema: Schema, address: int) -> Iterator[int]:
    """Yield the addresses of all buffers of an array, but for the sizes of views, which are a copy."""
    array = read_array(address)
    yield from filter(None, array.buffers[:-1] if schema.kind == VIEW else array.buffers)
    for child, kind in zip(array.children, schema.children, strict=True):
        yield from _places(kind, child)
    if schema.dictionary is not None:
        yield from _places(schema.dictionary, array.dictionary)


def test_empty_views_have_sizes_of_their_own() -> None:
    forged = Forged(pa.array([], pa.string_view()))
    source = read_source(forged.read())
    assert len(read_array(source.batches[0]).buffers) == 3
    places = list(_places(source.schema, source.batches[0]))
    assert all(0 <= buffer - forged.start < len(forged.payload) for buffer in places)


def test_doubled_structs_do_not_multiply() -> None:
    """Each level refers to the next one twice: 2^40 structs, were they all copied."""
    kind = pa.struct({"a": pa.int8(), "b": pa.int8()})
    for _ in range(40):
        kind = pa.struct({"a": kind, "b": pa.int8()})
    forged = Forged(pa.nulls(1, kind))
    at, schema = forged.array, forged.schema
    for _ in range(40):
        for struct_at, word in ((at, CHILDREN), (schema, 5)):
            pointers = forged.at(struct_at + 8 * word)
            forged.set(pointers + 8, forged.word(pointers))
        at, schema = (forged.at(forged.at(each + 8 * word)) for each, word in ((at, CHILDREN), (schema, 5)))
    with pytest.raises(shmclient.BadRegion):
        forged.read()


def test_owner_who_changes_structs_later_is_found_out(arena: Arena, other: shmclient.Client) -> None:
    assert isinstance(arena, ArenaOwner)
    arena["t"] = TEXTS
    value = other.get("camera/t")
    before = pa.array(value)
    handle = other.open("camera/t")
    (ctypes.c_int64).from_address(handle.address + 48).value = 99  # in the owner's process: it may write
    (ctypes.c_int64).from_address(handle.address + 16).value = 99
    with pytest.raises(shmclient.BadRegion):
        value.__arrow_c_stream__()
    with pytest.raises(shmclient.BadRegion):
        value.__arrow_c_array__()
    assert before.equals(TEXTS)
