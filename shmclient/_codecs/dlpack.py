"""Tensors of other libraries, by DLPack: stored as NumPy arrays are, and returned as such. Imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shmclient._codecs import arrow
from shmclient._codecs import numpy as arrays
from shmclient._codecs.layout import Layout, Maker

FORMAT = arrays.FORMAT
_OTHERS = frozenset((bytes, bytearray, memoryview, str, int, float, bool, type(None), list, tuple, dict))


def can_encode(obj: object) -> bool:
    """Whether the object has DLPack's method, and none of Arrow's, which say more."""
    kind = type(obj)
    return kind not in _OTHERS and hasattr(kind, "__dlpack__") and not arrow.can_encode(obj)


def encode(obj: Any, layout: Layout) -> dict[str, Any]:
    """Add the bytes of a tensor, not copied if its items lie side by side in C or F order. TypeError."""
    from shmclient._codecs.dlpack_source import read_tensor

    tensor = read_tensor(obj)
    order = "C" if tensor.is_compact("C") else "F" if tensor.is_compact("F") else None
    if not tensor.nbytes:
        content = memoryview(b"")
    else:
        content = tensor.memory() if order is not None else tensor.copied()
    description = {
        "format": FORMAT,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "order": order or "C",
    }
    return description | layout.place(content)


def plan(item: Mapping[str, Any]) -> Maker:
    """Return what makes arrays by a description."""
    return arrays.plan(item)
