"""What `put` stores and `get` gives back: buffers, NumPy arrays, and dicts of them. Pure; maps nothing.

The payload holds the bytes as they are, each item at a multiple of 64. The metadata, a msgpack map behind
them, says what they are; `protocol/README.md` describes it. Metadata is as untrusted as any other input:
all offsets are checked, and no dtype that holds pointers to Python objects is ever made from it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from shmprotocol.errors import BadRegion, InvalidArgument
from shmprotocol.messages import METADATA_MAX

ALIGNMENT = 64  # a cache line, and the widest vector loads
_NATIVE_FORMATS = frozenset("cbB?hHiIlLqQnNfdP")


@dataclass(slots=True)
class Encoded:
    """A payload to be written: buffers with their offsets, in bytes, and what they are."""

    metadata: bytes
    size: int = 0
    chunks: list[tuple[int, memoryview]] = field(default_factory=list)


class _Layout:
    """Gives each buffer its place."""

    def __init__(self) -> None:
        self.size = 0
        self.chunks: list[tuple[int, memoryview]] = []

    def place(self, buffer: memoryview) -> dict[str, int]:
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + buffer.nbytes
        if buffer.nbytes:
            self.chunks.append((offset, buffer))
        return {"offset": offset, "size": buffer.nbytes}


def encode(obj: object) -> Encoded:
    """Return what to write for a bytes-like object, an ndarray, or a dict from str to these.

    Contiguous buffers are not copied. TypeError: nothing of the kind; InvalidArgument: an array that
    holds Python objects, or a dict whose index is over the limit of the metadata.
    """
    layout = _Layout()
    if isinstance(obj, Mapping):
        description: dict[str, Any] = {"format": "dict", "items": _encode_items(obj, layout)}
    else:
        description = _encode_item(obj, layout)
    return Encoded(pack_metadata(description), layout.size, layout.chunks)


def _encode_items(items: Mapping[Any, object], layout: _Layout) -> list[list[Any]]:
    encoded = []
    for key, value in items.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of a dict are str, not {type(key).__name__}: {key!r:.40}")
        try:
            encoded.append([key, _encode_item(value, layout)])
        except TypeError as error:
            raise TypeError(f"{key!r:.40}: {error}") from None
    return encoded


def _encode_item(obj: object, layout: _Layout) -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, numpy.ndarray):
        return _encode_array(obj, layout)
    try:
        view = memoryview(obj)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"a region holds bytes-like objects, NumPy arrays and dicts of them, not {type(obj).__name__}"
        ) from None
    return _encode_buffer(view, layout)


def _encode_buffer(view: memoryview, layout: _Layout) -> dict[str, Any]:
    description: dict[str, Any] = {"format": "bytes"}
    if view.format != "B" or view.ndim != 1:
        if view.format not in _NATIVE_FORMATS:
            raise TypeError(f"buffers of format {view.format!r} cannot be kept; cast them to bytes")
        description.update(item=view.format, shape=list(view.shape or ()))
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return description | layout.place(view.cast("B") if view.nbytes else memoryview(b""))


def _encode_array(array: Any, layout: _Layout) -> dict[str, Any]:
    import numpy as np

    if array.dtype.hasobject:
        raise InvalidArgument(f"dtype {array.dtype} holds pointers to Python objects of this process")
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = np.asarray(array, order=order).reshape(-1, order=order)  # a copy only if not contiguous
    raw = flat.view(np.uint8).data if flat.nbytes else memoryview(b"")
    return {
        "format": "ndarray",
        "dtype": np.lib.format.dtype_to_descr(array.dtype),
        "shape": list(array.shape),
        "order": order,
        **layout.place(raw),
    }


def pack_metadata(description: dict[str, Any]) -> bytes:
    """Return the bytes of a metadata map; InvalidArgument when they are over the limit."""
    metadata: bytes = msgpack.packb(description, use_bin_type=True)
    if len(metadata) > METADATA_MAX:
        raise InvalidArgument(
            f"the description takes {len(metadata)} bytes, over {METADATA_MAX}: use fewer keys"
        )
    return metadata


def unpack_metadata(raw: bytes) -> dict[str, Any]:
    """Return the map in a region's metadata, an empty one for none; BadRegion when it is something else."""
    if not raw:
        return {}
    try:
        value = msgpack.unpackb(raw, strict_map_key=True, max_ext_len=0)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise BadRegion(f"the metadata is no msgpack map: {error}") from None
    if not isinstance(value, dict):
        raise BadRegion(f"the metadata is no msgpack map: {value!r:.60}")
    return value


def decode(metadata: Mapping[str, Any], data: memoryview) -> Any:
    """Return what a region holds: views of `data` in the form that was put. BadRegion: broken metadata.

    A region of a format that this version does not know comes back as its bytes.
    """
    try:
        if metadata.get("format") == "dict":
            return {str(key): _decode_item(item, data) for key, item in metadata["items"]}
        return _decode_item(metadata, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRegion(f"the metadata does not fit the data: {error!r:.200}") from error


def _decode_item(item: Mapping[str, Any], data: memoryview) -> Any:
    kind = item.get("format")
    if kind == "ndarray":
        return _decode_array(item, _slice(item, data))
    if kind != "bytes":
        return data
    view = _slice(item, data)
    if "item" not in item:
        return view
    if item["item"] not in _NATIVE_FORMATS:
        raise ValueError(f"unknown item format {item['item']!r:.20}")
    return _cast(view, item["item"], item["shape"])


def _cast(view: Any, form: str, shape: list[int]) -> Any:
    # memoryview.cast takes no shape with a zero in it: such a view comes back flat.
    return view.cast(form) if 0 in shape else view.cast(form, shape=tuple(shape))


def _slice(item: Mapping[str, Any], data: memoryview) -> memoryview:
    offset, size = item["offset"], item["size"]
    if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size <= len(data):
        raise ValueError(f"{size!r} bytes at {offset!r} are not inside of {len(data)}")
    return data[offset : offset + size]


def _decode_array(item: Mapping[str, Any], raw: memoryview) -> Any:
    try:
        import numpy as np
    except ImportError:
        raise ImportError(
            "the region holds a NumPy array: pip install 'shmhost[numpy]', or open() it for its bytes"
        ) from None
    dtype = np.lib.format.descr_to_dtype(_descr(item["dtype"]))
    if dtype.hasobject:
        raise ValueError(f"dtype {dtype} would hold pointers to Python objects")
    return np.ndarray(tuple(item["shape"]), dtype, raw, order=item["order"])


def _descr(value: Any) -> Any:
    """Give back the tuples that msgpack made lists: a dtype is str, (base, shape), or a list of fields."""
    if isinstance(value, str):
        return value
    if len(value) == 2 and isinstance(value[1], list) and all(type(n) is int for n in value[1]):
        return _descr(value[0]), tuple(value[1])
    return [_descr_field(one) for one in value]


def _descr_field(one: list[Any]) -> tuple[Any, ...]:
    name = tuple(one[0]) if isinstance(one[0], list) else one[0]  # (title, name)
    shape = (tuple(one[2]),) if len(one) == 3 else ()
    return (name, _descr(one[1]), *shape)
