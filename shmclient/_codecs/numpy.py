"""NumPy arrays: stored with dtype, shape and order, and given back as arrays over the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from shmclient._codecs.layout import Layout, slice_of
from shmprotocol.errors import InvalidArgument

FORMAT = "ndarray"


def can_encode(obj: object) -> bool:
    """Whether the object is an array. No import of NumPy: without it there are none."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.ndarray)


def encode(array: Any, layout: Layout) -> dict[str, Any]:
    """Place the array's bytes in its own order, F or else C; contiguous arrays are not copied."""
    import numpy as np

    if array.dtype.hasobject:
        raise InvalidArgument(f"dtype {array.dtype} holds pointers to Python objects of this process")
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = np.asarray(array, order=order).reshape(-1, order=order)  # a copy only if not contiguous
    raw = flat.view(np.uint8).data if flat.nbytes else memoryview(b"")
    return {
        "format": FORMAT,
        "dtype": np.lib.format.dtype_to_descr(array.dtype),
        "shape": list(array.shape),
        "order": order,
        **layout.place(raw),
    }


def decode(item: Mapping[str, Any], data: memoryview) -> Any:
    """Return a read-only array over the bytes; ImportError when there is no NumPy."""
    try:
        import numpy as np
    except ImportError:
        raise ImportError(
            "the region holds a NumPy array: pip install 'shmhost[numpy]', or open() it for its bytes"
        ) from None
    raw = slice_of(item, data)
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
