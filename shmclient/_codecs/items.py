"""The codecs of single values, each with a description: a msgpack map. Pure; maps no memory.

Metadata is as untrusted as any other input: all offsets are checked, and no dtype that holds pointers to
Python objects is ever made from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

import msgpack

from shmclient._codecs import arrow, buffers, dlpack, numpy, objects
from shmclient._codecs.layout import Layout, Maker, place_of
from shmclient._codecs.trees import TreeCodec
from shmprotocol.errors import BadRegion, InvalidArgument
from shmprotocol.wire.names import MAX_METADATA


class Codec(Protocol):
    """A codec: a module with these names. `FORMAT` is the `format` of its descriptions."""

    FORMAT: str

    def can_encode(self, obj: object) -> bool:
        """Whether the object is of this kind. If so, later codecs are not asked."""

    def encode(self, obj: Any, layout: Layout) -> dict[str, Any]:
        """Add the object's bytes, return its description; TypeError if it cannot be stored without loss."""

    def plan(self, item: Mapping[str, Any]) -> Maker:
        """Return what makes such values over the bytes of a payload; both: ValueError if they are corrupt."""


class PlainCodec(Codec, Protocol):
    """A codec with kinds of values whose descriptions are alike, of which a dict stores one for all."""

    def kind_of(self, obj: object) -> Hashable:
        """Return what is equal for objects that differ in their bytes alone, if one `is_plain`; or None."""

    def is_plain(self, obj: Any) -> bool:
        """Whether `encode` describes all objects of its kind as it does this one, but for their places."""

    def place(self, obj: Any, layout: Layout) -> tuple[int, int]:
        """Add the bytes of an object of such a kind, as `encode` does; return their offset and size."""


def encode_item(obj: object, layout: Layout) -> dict[str, Any]:
    """Add the bytes of a value, return its description. TypeError, with advice: it cannot be stored."""
    for codec in CODECS:
        if codec.can_encode(obj):
            return codec.encode(obj, layout)
    raise TypeError(
        "a region holds bytes-like objects, NumPy arrays, tensors, Arrow data, text, numbers, None, and "
        f"lists, tuples and dicts of them, not {type(obj).__name__}: put_object() stores whatever can be "
        "pickled"
    )


def plan_of(item: Mapping[str, Any]) -> Maker:
    """Return what makes the values of a description; those of an unknown format are their bytes."""
    codec = _BY_FORMAT.get(item.get("format", ""))
    return buffers.flat if codec is None else codec.plan(item)


# The first that can encode an object is used.
CODECS: tuple[Codec, ...] = (numpy, objects, dlpack, buffers, TreeCodec(encode_item, plan_of), arrow)
_BY_FORMAT = {codec.FORMAT: codec for codec in reversed(CODECS)}  # tensors come out as NumPy's arrays
FORMATS = frozenset(_BY_FORMAT)


def decode_item(item: Mapping[str, Any], data: memoryview) -> Any:
    """Return the value of a description with its place; a description of an unknown format may have none."""
    if "offset" not in item and item.get("format", "") not in _BY_FORMAT:
        return data
    offset, size = place_of(item, data)
    return plan_of(item)(data, offset, size)


def pack_metadata(description: dict[str, Any]) -> bytes:
    """Return the bytes of a metadata map; InvalidArgument if they are over the limit."""
    try:
        metadata: bytes = msgpack.packb(description, use_bin_type=True)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a name is not UTF-8: {error}") from None
    if len(metadata) > MAX_METADATA:
        raise InvalidArgument(
            f"the description takes {len(metadata)} bytes, over {MAX_METADATA}: use a dtype with fewer fields"
        )
    return metadata


def unpack_metadata(raw: bytes) -> dict[str, Any]:
    """Return the map in a region's metadata, an empty one for none; BadRegion if it is not a map."""
    if not raw:
        return {}
    try:
        value = msgpack.unpackb(raw, strict_map_key=True, max_ext_len=0)
    except Exception as error:  # of any class: the bytes are the cause
        raise BadRegion(f"the metadata is not a msgpack map: {error!r:.200}") from None
    if not isinstance(value, dict):
        raise BadRegion(f"the metadata is not a msgpack map: {value!r:.60}")
    return value
