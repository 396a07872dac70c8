"""Bytes-like objects: stored unchanged, and returned as read-only memoryviews."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Mapping
from typing import Any

from shmclient._codecs.dtypes import check_shape
from shmclient._codecs.layout import Layout, Maker

FORMAT = "bytes"
_ITEM_FORMATS = frozenset("cbB?hHiIlLqQnNfdP")  # the formats that memoryview.cast() accepts
_ORDERS = tuple("@=<>!")  # as in `struct`


def can_encode(obj: Any) -> bool:
    """Whether the object has a buffer."""
    try:
        memoryview(obj)
    except TypeError:
        return False
    return True


def kind_of(obj: Any) -> Hashable:
    """Return what is equal for buffers that differ in their bytes alone, if one `is_plain`."""
    return bytes if type(obj) is bytes else None


def is_plain(content: bytes) -> bool:
    """Whether it is flat bytes, as `kind_of` has found."""
    return True


def place(content: bytes, layout: Layout) -> tuple[int, int]:
    """Add the bytes of a buffer that has a kind; return offset and size."""
    return layout.append(content, len(content)), len(content)


def encode(obj: Any, layout: Layout) -> dict[str, Any]:
    """Add the bytes, in C order; contiguous buffers are not copied. TypeError: an unsupported format."""
    view = memoryview(obj)
    description: dict[str, Any] = {"format": FORMAT}
    if view.format != "B" or view.ndim != 1:
        description.update(item=_item_format(view), shape=list(view.shape or ()))
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return description | layout.place(view.cast("B") if view.nbytes else memoryview(b""))


def plan(item: Mapping[str, Any]) -> Maker:
    """Return what makes views by a description, with its item format and shape."""
    if "item" not in item:
        return flat
    code, shape = item["item"], check_shape(item["shape"])
    if code not in _ITEM_FORMATS:
        raise ValueError(f"unknown item format {code!r:.20}")
    return lambda data, offset, size: _cast(flat(data, offset, size), code, shape)


def flat(data: memoryview, offset: int, size: int) -> memoryview:
    """Make a view of bytes."""
    return data[offset : offset + size]


def _item_format(view: memoryview) -> str:
    """Return the format of the items without the byte order, which must be native; or TypeError."""
    order, code = ("", view.format) if view.format[:1] not in _ORDERS else (view.format[0], view.format[1:])
    is_foreign = order in (">", "!") and view.itemsize > 1
    if is_foreign or code not in _ITEM_FORMATS or struct.calcsize(code) != view.itemsize:
        raise TypeError(
            f"a buffer with items of format {view.format!r} cannot be stored as it is: np.asarray(x) keeps "
            "the items, memoryview(x).cast('B') their bytes alone"
        )
    if not view.nbytes and view.ndim != 1:
        raise TypeError(
            f"an empty buffer of shape {view.shape} would come back flat: use np.asarray(x) keeps its shape"
        )
    return code


def _cast(view: memoryview, form: str, shape: tuple[int, ...]) -> Any:
    # memoryview.cast refuses a shape with a zero in it.
    if 0 not in shape:
        return view.cast(form, shape=shape)  # type: ignore[call-overload]
    if view.nbytes or len(shape) != 1:
        raise ValueError(f"{view.nbytes} bytes are not items of format {form!r} in shape {shape}")
    return view.cast(form)  # type: ignore[call-overload]
