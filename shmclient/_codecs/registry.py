"""The codecs of `put` and `get`: a value of one codec, or a dict of such values. Pure; maps no memory.

The payload holds the unchanged bytes. The metadata, a msgpack map behind them, describes them;
see `protocol/README.md`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal

from shmclient._codecs import arrow, buffers
from shmclient._codecs import numpy as arrays
from shmclient._codecs.index import Index, pack_reference
from shmclient._codecs.items import (
    CODECS,
    FORMATS,
    PlainCodec,
    decode_item,
    encode_item,
    pack_metadata,
    plan_of,
    unpack_metadata,
)
from shmclient._codecs.layout import ALIGNMENT, Encoded, Layout, Maker, place_of
from shmclient._codecs.region_dict import PLANNED_MAX, read_dict
from shmprotocol.errors import BadRegion

DESCRIBED_MAX = 256  # kinds of arrays: a program puts few
_DESCRIBED: dict[Hashable, bytes] = {}  # the metadata of plain arrays by their kind


def can_encode(obj: object) -> bool:
    """Whether `encode` takes an object of this kind; its content can still be refused."""
    return isinstance(obj, Mapping) or any(codec.can_encode(obj) for codec in CODECS)


def described_already(obj: object) -> bytes | Literal[False] | None:
    """Return the metadata of an object that is put as its buffer has it, None for plain bytes; or False.

    There is one once `encode` has had an object that differs in its bytes alone.
    """
    if type(obj) is bytes:
        return None
    kind = arrays.kind_of(obj)
    return _DESCRIBED.get(kind, False) if kind is not None else False


def encode(obj: object) -> Encoded:
    """Return the payload for a bytes-like object, an ndarray, Arrow data, or a dict from str to such values.

    Contiguous buffers are not copied, except for small ones of a dict. TypeError: any other type, or the
    object would lose data; the text says what to do. InvalidArgument: a key that cannot be stored.
    """
    layout = Layout()
    if not isinstance(obj, Mapping):
        description = encode_item(obj, layout)
        metadata = pack_metadata(description)
        kind = arrays.kind_of(obj)
        if kind is not None and arrays.is_plain(obj):
            if len(_DESCRIBED) >= DESCRIBED_MAX:
                _DESCRIBED.clear()
            _DESCRIBED[kind] = metadata
        return layout.encoded(metadata, has_root=description["format"] == arrow.FORMAT)
    # All that a look-up touches but the records lies in front, where the host's page is touched anyway.
    metadata = pack_reference(ALIGNMENT)
    layout.lead([metadata, _encode_items(obj, layout).pack(lead=ALIGNMENT)])
    return layout.encoded(metadata, metadata_at=0)


def _encode_items(items: Mapping[Any, object], layout: Layout) -> Index:
    index = Index()
    numbers: dict[Hashable, int] = {}  # of descriptions, by the kinds of plain values
    for key, value in items.items():
        if not isinstance(key, str):
            raise TypeError(f"the keys of a dict are str, not {type(key).__name__}: {key!r:.40}")
        kind: Hashable = arrays.kind_of(value)
        codec: PlainCodec = buffers if kind is None else arrays
        if kind is None:
            kind = buffers.kind_of(value)
        number = numbers.get(kind)
        if number is not None:
            index.add(key, *codec.place(value, layout), number)
            continue
        number = _encode_first(key, value, layout, index)
        if kind is not None and codec.is_plain(value):
            numbers[kind] = number
    return index


def _encode_first(key: str, value: object, layout: Layout, index: Index) -> int:
    """Encode a value of a kind that is not known; return the number of its description."""
    try:
        description = encode_item(value, layout)
    except TypeError as error:
        raise TypeError(f"{key!r:.40}: {error}") from None
    number = index.describe(description)
    index.add(key, description["offset"], description["size"], number)
    return number


def decode(
    metadata: Mapping[str, Any], data: memoryview, payload: Callable[[], memoryview] | None = None
) -> Any:
    """Return the value in a region: views of `data`, in the form that was put. BadRegion: corrupt metadata.

    `payload` returns what `data` is the start of, if there is more: the index of a dict can lie behind the
    data. A region of a format that this version does not know comes back as its bytes.
    """
    try:
        if metadata.get("format") != "dict":
            return decode_item(metadata, data)
        if "index" in metadata:
            return read_dict(metadata["index"], data if payload is None else payload(), data)
        return {_key(key): decode_item(item, data) for key, item in metadata["items"]}
    except (BadRegion, ImportError, MemoryError):
        raise
    except Exception as error:  # of any class: the codecs pass untrusted values to NumPy and to memoryview
        raise BadRegion(f"the metadata does not fit the data: {error!r:.200}") from error


def decode_packed(
    packed: bytes, data: memoryview, payload: Callable[[], memoryview]
) -> tuple[Any, Mapping[str, Any]]:
    """Return what `decode` does for packed metadata, and those unpacked, for nobody to change."""
    metadata, make = (_kept_plan if len(packed) <= PLANNED_MAX else _plan)(packed)
    if make is None:
        return decode(metadata, data, payload), metadata
    try:
        return make(data, *place_of(metadata, data)), metadata
    except MemoryError:
        raise
    except Exception as error:  # as in `decode`
        raise BadRegion(f"the metadata does not fit the data: {error!r:.200}") from error


def _plan(packed: bytes) -> tuple[Mapping[str, Any], Maker | None]:
    """Return metadata, and what makes their value over some data; None if `decode` has to."""
    metadata = unpack_metadata(packed)
    try:
        if metadata.get("format") in FORMATS:
            return metadata, plan_of(metadata)
    except Exception:  # which `decode` meets again, and explains
        return metadata, None
    return metadata, None


_kept_plan = functools.lru_cache(maxsize=256)(_plan)  # many values are alike but for their bytes


def _key(key: object) -> str:
    if type(key) is not str:
        raise ValueError(f"the keys of a dict are str, not {key!r:.40}")
    return key
