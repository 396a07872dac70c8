"""Tensors of other libraries, by DLPack: stored as NumPy arrays are, and returned as such. Imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shmclient._codecs import arrow
from shmclient._codecs import numpy as arrays
from shmclient._codecs.dtypes import parse
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
    order, content = tensor.content()
    description = {"format": FORMAT, "dtype": tensor.dtype, "shape": list(tensor.shape), "order": order}
    return description | layout.place(content)


def array_of(obj: Any) -> Any:
    """Return an array of NumPy over the bytes of a tensor, not copied as in `encode`. TypeError."""
    import numpy as np

    from shmclient._codecs.dlpack_source import read_tensor

    tensor = read_tensor(obj)
    order, content = tensor.content()
    return np.ndarray(tensor.shape, parse(tensor.dtype), content, 0, None, order)  # type: ignore[arg-type]


def plan(item: Mapping[str, Any]) -> Maker:
    """Return what makes arrays by a description."""
    return arrays.plan(item)
