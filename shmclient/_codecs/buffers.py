"""Bytes-like objects: stored as they lie, and given back as read-only memoryviews."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shmclient._codecs.layout import Layout, slice_of

FORMAT = "bytes"
_NATIVE_FORMATS = frozenset("cbB?hHiIlLqQnNfdP")


def can_encode(obj: Any) -> bool:
    """Whether the object has a buffer."""
    try:
        memoryview(obj)
    except TypeError:
        return False
    return True


def encode(obj: Any, layout: Layout) -> dict[str, Any]:
    """Place the bytes, in C order; contiguous buffers are not copied."""
    view = memoryview(obj)
    description: dict[str, Any] = {"format": FORMAT}
    if view.format != "B" or view.ndim != 1:
        if view.format not in _NATIVE_FORMATS:
            raise TypeError(f"buffers of format {view.format!r} cannot be kept; cast them to bytes")
        description.update(item=view.format, shape=list(view.shape or ()))
    if not view.c_contiguous:
        view = memoryview(view.tobytes())
    return description | layout.place(view.cast("B") if view.nbytes else memoryview(b""))


def decode(item: Mapping[str, Any], data: memoryview) -> Any:
    """Return the view that was stored, with its item format and shape."""
    view = slice_of(item, data)
    if "item" not in item:
        return view
    if item["item"] not in _NATIVE_FORMATS:
        raise ValueError(f"unknown item format {item['item']!r:.20}")
    return _cast(view, item["item"], item["shape"])


def _cast(view: Any, form: str, shape: list[int]) -> Any:
    # memoryview.cast takes no shape with a zero in it: such a view comes back flat.
    return view.cast(form) if 0 in shape else view.cast(form, shape=tuple(shape))
