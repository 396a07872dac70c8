"""Slices of Arrow arrays, written as arrays of their own: buffers are cut, and offsets counted anew.

Bits cannot be cut within a byte: where there are some, up to seven items in front of the slice come along,
and the offset of the new array says how many. Buffers are cut where they lie; numbers that count from
elsewhere are new.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

from shmclient._codecs import arrow_source as types
from shmclient._codecs.arrow_image import Image
from shmclient._codecs.arrow_source import Array, Schema, memory, read_array
from shmprotocol.native.builtins import arrow_dense, arrow_list_views, arrow_offsets, arrow_runs, arrow_views
from shmprotocol.tuples import NamedTuple

ARRAY_WORDS = 10  # of struct ArrowArray
_BUFFERS, _CHILDREN, _DICTIONARY = 5, 6, 7  # its words that are pointers
_VIEW_BUFFERS = 3  # at least: validity, views, and sizes of those with the text, which are in between


class Part(NamedTuple):
    """Items of an array, `first` and the following, as they are in its buffers; `skip` of them are hidden."""

    array: Array
    schema: Schema
    at: int  # the struct that is written
    buffers: int  # the pointers to its buffers
    first: int
    skip: int
    total: int


class Slicer:
    """Writes arrays into an image."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._writers: dict[int, Callable[[Part], None]] = {
            types.NULL: lambda part: None,
            types.BITS: lambda part: self._bits(part, 1),
            types.FIXED: lambda part: self._cut(part, 1, part.schema.width),
            types.BINARY: self._binary,
            types.VIEW: self._views,
            types.LIST: self._list,
            types.LIST_VIEW: self._list_view,
            types.FIXED_LIST: self._fixed_list,
            types.STRUCT: self._struct,
            types.SPARSE: self._sparse,
            types.DENSE: self._dense,
            types.RUNS: self._runs,
        }

    def whole(self, at: int, schema: Schema, address: int) -> int:
        """Write the array at an address as the struct at word `at`; return its length."""
        source = read_array(address)
        self._write(at, schema, source, 0, source.length)
        return source.length

    def _write(self, at: int, schema: Schema, source: Array, start: int, count: int) -> None:
        if not 0 <= start <= start + count <= source.length or len(source.children) != len(schema.children):
            raise ValueError(f"the Arrow array is corrupt: {count} items from {start} of {source.length}")
        has_validity = bool(schema.has_validity and count and source.buffers[0] and source.null_count)
        skip = (source.offset + start) % 8 if count and (has_validity or schema.kind == types.BITS) else 0
        buffers = len(source.buffers) if count or schema.kind != types.VIEW else _VIEW_BUFFERS
        null_count = (
            _null_count(schema, source, start, count) if has_validity or schema.kind == types.NULL else 0
        )
        image = self._image
        words = image.allocate(buffers)
        image.set(at, count, null_count, skip, buffers, len(schema.children))
        if buffers:
            image.point(at + _BUFFERS, words)
        part = Part(source, schema, at, words, source.offset + start - skip, skip, count + skip)
        if has_validity:
            self._bits(part, 0)
        self._writers[schema.kind](part)
        if schema.dictionary is not None:
            dictionary = image.allocate(ARRAY_WORDS)
            image.point(at + _DICTIONARY, dictionary)
            self.whole(dictionary, schema.dictionary, source.dictionary)

    def _refer(self, part: Part, number: int, address: int, size: int) -> None:
        """Have a buffer be `size` bytes at an address of the producer's."""
        self._image.refer(part.buffers + number, memory(address, size) if size else b"", address << 64 | size)

    def _cut(self, part: Part, number: int, width: int) -> None:
        self._refer(part, number, part.array.buffers[number] + part.first * width, part.total * width)

    def _bits(self, part: Part, number: int) -> None:
        start = part.first // 8
        size = (part.first + part.total + 7) // 8 - start if part.total else 0
        self._refer(part, number, part.array.buffers[number] + start, size)

    def _offsets(self, part: Part) -> tuple[int, int]:
        """Write offsets that start with 0; return what they referred to."""
        width = part.schema.width
        if not part.total:
            self._image.refer(part.buffers + 1, bytes(width))
            return 0, 0
        address = part.array.buffers[1] + part.first * width
        memory(address, width)  # there are some
        start, end, moved = arrow_offsets(address, part.skip, part.total, width)
        if moved is None:
            self._refer(part, 1, address, (part.total + 1) * width)
        else:
            self._image.refer(part.buffers + 1, moved)
        return start, end

    def _binary(self, part: Part) -> None:
        start, end = self._offsets(part)
        self._refer(part, 2, part.array.buffers[2] + start, end - start)

    def _views(self, part: Part) -> None:
        image, buffers = self._image, part.array.buffers
        if not part.total:
            for number in range(1, _VIEW_BUFFERS):
                image.refer(part.buffers + number, b"")
            return
        last = len(buffers) - 1
        bits = part.first // 8
        validity = buffers[0] + bits if buffers[0] and part.array.null_count else 0
        address = buffers[1] + part.first * part.schema.width
        assert not validity or part.first % 8 == 0  # `_write` has cut at a whole byte
        ranges, moved = arrow_views(address, validity, part.total, last - 2)
        if moved is None:
            self._cut(part, 1, part.schema.width)
        else:
            image.refer(part.buffers + 1, moved)
        for number, (start, end) in enumerate(ranges, 2):
            self._refer(part, number, buffers[number] + start, end - start)
        sizes = array("q", [end - start for start, end in ranges])
        image.refer(part.buffers + last, sizes.tobytes())

    def _list(self, part: Part) -> None:
        start, end = self._offsets(part)
        self._children(part, [(start, end)])

    def _list_view(self, part: Part) -> None:
        width = part.schema.width
        self._cut(part, 2, width)
        offsets, sizes = (buffer + part.first * width for buffer in part.array.buffers[1:])
        start, end, moved = arrow_list_views(offsets, sizes, part.total, width) if part.total else (0, 0, b"")
        self._image.refer(part.buffers + 1, moved)
        self._children(part, [(start, end)])

    def _fixed_list(self, part: Part) -> None:
        width = part.schema.width
        self._children(part, [(part.first * width, (part.first + part.total) * width)])

    def _struct(self, part: Part) -> None:
        self._children(part, [(part.first, part.first + part.total)] * len(part.array.children))

    def _sparse(self, part: Part) -> None:
        self._cut(part, 0, 1)
        self._struct(part)

    def _dense(self, part: Part) -> None:
        self._cut(part, 0, 1)
        kinds, offsets = part.array.buffers
        ids = bytes(int(number) for number in part.schema.format[4:].split(b",") if number)
        ranges, moved = arrow_dense(kinds + part.first, offsets + 4 * part.first, part.total, ids)
        self._image.refer(part.buffers + 1, moved)
        self._children(part, ranges)

    def _runs(self, part: Part) -> None:
        """Write the runs of the slice; the first and the last may be shorter."""
        ends_schema, values_schema = part.schema.children
        ends, values = (read_array(child) for child in part.array.children)
        width = ends_schema.width
        address = ends.buffers[1] + ends.offset * width
        start, end, moved = arrow_runs(address, ends.length, width, part.first, part.total)
        image = self._image
        first = image.children(part.at + _CHILDREN, 2, ARRAY_WORDS)
        buffers = image.allocate(2)
        image.set(first, end - start, 0, 0, 2, 0)
        image.point(first + _BUFFERS, buffers)
        image.refer(buffers + 1, moved)
        self._write(first + ARRAY_WORDS, values_schema, values, start, end - start)

    def _children(self, part: Part, ranges: Sequence[tuple[int, int]]) -> None:
        """Write of each child the items from a start to an end."""
        if not ranges:
            return
        first = self._image.children(part.at + _CHILDREN, len(ranges), ARRAY_WORDS)
        for number, (start, end) in enumerate(ranges):
            child, schema = read_array(part.array.children[number]), part.schema.children[number]
            self._write(first + number * ARRAY_WORDS, schema, child, start, end - start)


def _null_count(schema: Schema, source: Array, start: int, count: int) -> int:
    """Return the nulls of a part of an array; -1: nobody has counted them."""
    if schema.kind == types.NULL or source.null_count == source.length:
        return count
    return source.null_count if (start, count) == (0, source.length) else -1
