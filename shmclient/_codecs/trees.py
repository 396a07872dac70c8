"""Values made of others: text, numbers, None, and lists, tuples and dicts of any depth.

Such a value is a block: the arrays and buffers in it, then two msgpack objects, the descriptions of those and
the value itself, and the number of their bytes. In place of an array stands an extension type that says which
description it has, and where it lies in the block; see `protocol/README.md`. No program can be in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from shmclient._codecs.layout import Layout, Maker, next_offset
from shmprotocol.errors import InvalidArgument

FORMAT = "tree"
DEPTH_MAX = (
    128  # msgpack packs 511 levels and Python recurses 1,000: deeper ones are graphs, or hold themselves
)
LEAF, TUPLE, INTEGER = 1, 2, 3  # extension types: a leaf, the first item of a tuple, an int of over 64 bits
_LEAF = struct.Struct("<IQQ")  # the number of its description, its offset and size
_LENGTH = struct.Struct("<Q")
_SCALARS = frozenset((bool, float, str, type(None)))
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1  # of msgpack
_IS_TUPLE = msgpack.ExtType(TUPLE, b"")


class TreeCodec:
    """The codec of such values. Their leaves are arrays, and all else that has a codec."""

    FORMAT = FORMAT

    def __init__(
        self,
        encode_leaf: Callable[[object, Layout], dict[str, Any]],
        plan_leaf: Callable[[Mapping[str, Any]], Maker],
    ) -> None:
        self._encode_leaf = encode_leaf
        self._plan_leaf = plan_leaf

    def can_encode(self, obj: object) -> bool:
        """Whether it is such a value. Enums and namedtuples are not: they would lose their class."""
        return type(obj) in _SCALARS or type(obj) in (int, list, tuple) or isinstance(obj, Mapping)

    def encode(self, obj: object, layout: Layout) -> dict[str, Any]:
        """Add the block; return its description. TypeError, with advice: something in it cannot be stored."""
        start = next_offset(layout)
        writer = _Writer(layout, start, self._encode_leaf)
        tree = writer.write(obj, 0)
        try:
            stream = msgpack.packb(list(writer.descriptions.values())) + msgpack.packb(tree)
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"a text is not UTF-8: {error}") from None
        stream += _LENGTH.pack(len(stream))
        layout.append(stream, len(stream))
        return {"format": FORMAT, "offset": start, "size": layout.size - start}

    def plan(self, item: Mapping[str, Any]) -> Maker:
        """Return what makes values over their blocks."""
        return self._read

    def _plan(self, description: Mapping[str, Any]) -> Maker:
        if description.get("format") == FORMAT:  # which could contain itself
            raise ValueError("a leaf is a value made of others")
        return self._plan_leaf(description)

    def _read(self, data: memoryview, offset: int, size: int) -> Any:
        """Return the value in a block; an error of any class: it is corrupt."""
        end = offset + size - _LENGTH.size
        (length,) = _LENGTH.unpack(data[max(end, offset) : offset + size])
        if length > end - offset:
            raise ValueError(f"a stream of {length} bytes is not in {size}")
        plans: list[Maker] = []

        def make(code: int, content: bytes) -> Any:
            if code == TUPLE:
                return _IS_TUPLE
            if code == INTEGER:
                return int.from_bytes(content, "little", signed=True)
            kind, leaf, count = _LEAF.unpack(content)
            if code != LEAF or leaf + count > size:
                raise ValueError(f"{count} bytes at {leaf} of type {code} are not in {size}")
            return plans[kind](data, offset + leaf, count)

        unpacker = msgpack.Unpacker(ext_hook=make, list_hook=_list, max_buffer_size=length)
        unpacker.feed(data[end - length : end])
        plans += map(self._plan, unpacker.unpack())
        return unpacker.unpack()


class _Writer:
    """Writes the leaves of one value, and makes what msgpack takes of the rest."""

    def __init__(
        self, layout: Layout, start: int, encode_leaf: Callable[[object, Layout], dict[str, Any]]
    ) -> None:
        self._layout = layout
        self._start = start
        self._encode_leaf = encode_leaf
        self._numbers: dict[bytes, int] = {}
        self.descriptions: dict[int, dict[str, Any]] = {}

    def write(self, obj: Any, depth: int) -> Any:
        """Return a value with an extension type for each of its leaves, which are written."""
        kind = type(obj)
        if kind in _SCALARS:
            return obj
        if kind is int:
            return obj if _INT_MIN <= obj <= _INT_MAX else _long(obj)
        if depth > DEPTH_MAX:
            raise InvalidArgument(
                f"the value is nested over {DEPTH_MAX} deep, or contains itself: put_object() takes it"
            )
        if kind is list:
            return [self.write(item, depth + 1) for item in obj]
        if kind is tuple:
            return [_IS_TUPLE, *(self.write(item, depth + 1) for item in obj)]
        if isinstance(obj, Mapping):
            return {_key(key): self.write(value, depth + 1) for key, value in obj.items()}
        return self._leaf(obj)

    def _leaf(self, obj: object) -> msgpack.ExtType:
        item = self._encode_leaf(obj, self._layout)
        offset, size = item.pop("offset"), item.pop("size")
        number = self._numbers.setdefault(msgpack.packb(item), len(self._numbers))
        self.descriptions[number] = item
        return msgpack.ExtType(LEAF, _LEAF.pack(number, offset - self._start, size))


def _long(number: int) -> msgpack.ExtType:
    return msgpack.ExtType(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True))


def _list(items: list[Any]) -> Any:
    return tuple(items[1:]) if items and items[0] is _IS_TUPLE else items


def _key(key: object) -> str:
    if type(key) is not str:
        raise TypeError(
            f"the keys of a dict are str, not {type(key).__name__}: {key!r:.40}; put_object() takes any"
        )
    return key
