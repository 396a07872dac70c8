"""NumPy arrays: stored with dtype, shape and order, and returned as arrays over the same bytes.

An instance of a subclass of ndarray may hold more than its data, such as a mask or a unit: it is refused,
except for two of NumPy's own subclasses, which a description can name.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from shmclient._codecs.dtypes import check_shape, describe, is_own, parse
from shmclient._codecs.layout import GATHERED_MAX, Layout, Maker

FORMAT = "ndarray"
_BYTES_MAX = 2**63 - 1  # NumPy's npy_intp
_CLASSES = ("matrix", "recarray")  # NumPy's own subclasses, without state besides the dtype


def can_encode(obj: object) -> bool:
    """Whether the object is an array or a NumPy scalar. Does not import NumPy: without it there are none."""
    numpy = sys.modules.get("numpy")
    if numpy is None or isinstance(obj, bytes):  # such as np.bytes_, which would lose zero bytes at its end
        return False
    return isinstance(obj, (numpy.ndarray, numpy.generic))


def check_array(name: str, metadata: Mapping[str, Any]) -> None:
    """Raise TypeError if what has a name and this metadata is not an array."""
    kind = metadata.get("format")
    if kind != FORMAT:
        raise TypeError(f"{name!r} is not an array but has the format {kind!r:.40}: use value()")


def kind_of(obj: Any) -> Hashable:
    """Return what is equal for arrays that differ in their bytes alone, if one `is_plain`."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) is not numpy.ndarray or not obj.flags.c_contiguous:
        return None
    return id(obj.dtype), obj.shape


def is_plain(array: Any) -> bool:
    """Whether its dtype is an object of NumPy's own, which lives on, so that its id says what it is."""
    return is_own(array.dtype)


def place(array: Any, layout: Layout) -> tuple[int, int]:
    """Add the bytes of an array that has a kind; return offset and size."""
    size = array.nbytes
    if size > GATHERED_MAX:
        array = array.reshape(-1).view("u1")
    return layout.append(array, size), size


def encode(array: Any, layout: Layout) -> dict[str, Any]:
    """Add the array's bytes in its own order, F or else C; contiguous arrays are not copied.

    A scalar becomes an array without dimensions. TypeError: it would not survive the round trip.
    """
    import numpy as np

    if isinstance(array, np.generic):
        array = np.asarray(array)
    tag = _class_of(array)
    order: Any = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    description = describe_array(array.dtype, array.shape, order)
    flat = np.asarray(array, order=order).reshape(-1, order=order)  # a copy only if not contiguous
    raw = flat.view(np.uint8).data if flat.nbytes else memoryview(b"")
    return description | layout.place(raw) | ({"class": tag} if tag else {})


def describe_array(dtype: Any, shape: Sequence[int], order: str = "C", offset: int = 0) -> dict[str, Any]:
    """Return the description of an array at `offset` bytes into the payload, written already or later.

    `dtype` is anything that NumPy accepts as a dtype; `size` in the description is the bytes of the array.
    ValueError: shape or order are not valid. TypeError: the dtype would not survive the round trip.
    """
    import numpy as np

    dtype = np.dtype(dtype)
    lengths = check_shape([int(length) for length in shape])
    if order not in ("C", "F"):
        raise ValueError(f"the order of an array is C or F, not {order!r:.40}")
    return {
        "format": FORMAT,
        "dtype": describe(dtype),
        "shape": list(lengths),
        "order": order,
        "offset": offset,
        "size": math.prod(lengths) * dtype.itemsize,
    }


def plan(item: Mapping[str, Any]) -> Maker:
    """Return what makes arrays by a description, read-only if the data is; ImportError without NumPy."""
    np = sys.modules.get("numpy") or _import_numpy()
    dtype, shape, order = parse(item["dtype"]), check_shape(item["shape"]), item["order"]
    size = math.prod(shape) * dtype.itemsize
    if not size:
        _check_empty(shape, dtype.itemsize)
    if order != "C" and order != "F":
        raise ValueError(f"the order of an array is C or F, not {order!r:.40}")
    kind = _class_named(item["class"], shape) if "class" in item else None
    ndarray = np.ndarray

    def make(data: memoryview, offset: int, length: int) -> Any:
        # NumPy divides by the item size if a shape has -1, and does not check sums for overflow.
        if length != size:
            raise ValueError(f"{shape} items of {dtype.itemsize} bytes are not {length} bytes")
        if kind is not None:
            return ndarray.__new__(kind, shape, dtype, data, offset, None, order)
        return ndarray(shape, dtype, data, offset, None, order)  # `order=` would take 0.2 us of 0.5

    return make


def _import_numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise ImportError(
            "the region holds a NumPy array: pip install 'shmhost[numpy]', or open() it for its bytes"
        ) from None
    return numpy


def _check_empty(shape: tuple[int, ...], itemsize: int) -> None:
    """Check the shape of an empty array: its size of 0 does not bound it, but NumPy computes its strides."""
    if math.prod(length or 1 for length in shape) * (itemsize or 1) > _BYTES_MAX:
        raise ValueError(f"an array of shape {shape} is too large, even if it is empty")


def _class_of(array: Any) -> str | None:
    """Return the name of an array's class for its description, None for ndarray; or TypeError."""
    import numpy as np

    kind = type(array)
    if kind is np.ndarray or kind is np.memmap:  # an array whose bytes are in a file
        return None
    if kind.__name__ in _CLASSES and kind is getattr(np, kind.__name__):
        return str(kind.__name__)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            "a masked array would lose its mask: x.filled(value) has a value in its place, and "
            "{'data': x.data, 'mask': np.ma.getmaskarray(x)} keeps both"
        )
    raise TypeError(
        f"a {kind.__module__}.{kind.__qualname__} can hold more than its data: pass np.asarray(x)"
    )


def _class_named(tag: object, shape: tuple[int, ...]) -> Any:
    import numpy as np

    if tag not in _CLASSES or (tag == "matrix" and len(shape) != 2):
        raise ValueError(f"there is no class {tag!r:.40} of arrays with {len(shape)} dimensions")
    return getattr(np, str(tag))
