"""The codecs of `put` and `get`: a value of one codec, or a dict of such values. Pure; maps no memory.

The payload holds the unchanged bytes. The metadata, a msgpack map behind them, describes them;
see `protocol/README.md`. Metadata is as untrusted as any other input: all offsets are checked, and
no dtype that holds pointers to Python objects is ever made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgpack

from shmclient._codecs import buffers, numpy
from shmclient._codecs.layout import Encoded, Layout, slice_of
from shmprotocol.errors import BadRegion, InvalidArgument
from shmprotocol.wire.names import MAX_METADATA


class Codec(Protocol):
    """A codec: a module with these names. `FORMAT` is the `format` of its descriptions."""

    FORMAT: str

    def can_encode(self, obj: object) -> bool:
        """Whether the object is of this kind. If so, later codecs are not asked."""

    def encode(self, obj: Any, layout: Layout) -> dict[str, Any]:
        """Add the object's bytes, return its description; TypeError if it cannot be stored without loss."""

    def decode(self, item: Mapping[str, Any], data: memoryview) -> Any:
        """Return the value over the bytes of the payload; ValueError if the description is corrupt."""


CODECS: tuple[Codec, ...] = (numpy, buffers)  # the first that can encode an object is used
_BY_FORMAT = {codec.FORMAT: codec for codec in CODECS}


def can_encode(obj: object) -> bool:
    """Whether `encode` takes an object of this kind; its content can still be refused."""
    return isinstance(obj, Mapping) or any(codec.can_encode(obj) for codec in CODECS)


def encode(obj: object) -> Encoded:
    """Return the payload for a bytes-like object, an ndarray, or a dict from str to such values.

    Contiguous buffers are not copied. TypeError: any other type, or the object would lose data; the text says
    what to do. InvalidArgument: a dict whose index is over the limit of the metadata.
    """
    layout = Layout()
    if isinstance(obj, Mapping):
        description: dict[str, Any] = {"format": "dict", "items": _encode_items(obj, layout)}
    else:
        description = _encode_item(obj, layout)
    return Encoded(pack_metadata(description), layout.size, layout.chunks)


def _encode_items(items: Mapping[Any, object], layout: Layout) -> list[list[Any]]:
    encoded = []
    for key, value in items.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of a dict are str, not {type(key).__name__}: {key!r:.40}")
        try:
            encoded.append([key, _encode_item(value, layout)])
        except TypeError as error:
            raise TypeError(f"{key!r:.40}: {error}") from None
    return encoded


def _encode_item(obj: object, layout: Layout) -> dict[str, Any]:
    for codec in CODECS:
        if codec.can_encode(obj):
            return codec.encode(obj, layout)
    raise TypeError(
        f"a region holds bytes-like objects, NumPy arrays and dicts of them, not {type(obj).__name__}"
    )


def pack_metadata(description: dict[str, Any]) -> bytes:
    """Return the bytes of a metadata map; InvalidArgument if they are over the limit."""
    try:
        metadata: bytes = msgpack.packb(description, use_bin_type=True)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"a name is not UTF-8: {error}") from None
    if len(metadata) > MAX_METADATA:
        raise InvalidArgument(
            f"the description takes {len(metadata)} bytes, over {MAX_METADATA}: use fewer keys"
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


def decode(metadata: Mapping[str, Any], data: memoryview) -> Any:
    """Return the value in a region: views of `data`, in the form that was put. BadRegion: corrupt metadata.

    A region of a format that this version does not know comes back as its bytes.
    """
    try:
        if metadata.get("format") == "dict":
            return {_key(key): _decode_item(item, data) for key, item in metadata["items"]}
        return _decode_item(metadata, data)
    except (BadRegion, ImportError, MemoryError):
        raise
    except Exception as error:  # of any class: the codecs pass untrusted values to NumPy and to memoryview
        raise BadRegion(f"the metadata does not fit the data: {error!r:.200}") from error


def _decode_item(item: Mapping[str, Any], data: memoryview) -> Any:
    codec = _BY_FORMAT.get(item.get("format", ""))
    if codec is not None:
        return codec.decode(item, data)
    return slice_of(item, data) if "offset" in item else data


def _key(key: object) -> str:
    if type(key) is not str:
        raise ValueError(f"the keys of a dict are str, not {key!r:.40}")
    return key
