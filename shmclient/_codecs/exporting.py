"""The value of a handle as NumPy and `memoryview` ask for it. Pure."""

from __future__ import annotations

from typing import Any


def exported(value: Any, handle: str) -> Any:
    """Return what has the buffer of a value; TypeError if it has none."""
    try:
        memoryview(value)
    except TypeError:
        raise TypeError(
            f"{handle} holds a {type(value).__name__}, which is not one buffer: use its value(), or its data "
            "for the bytes"
        ) from None
    return value


def as_array(value: Any, handle: str, dtype: Any, *, copy: bool | None) -> Any:
    """Return a value as an array, in its own memory if it can be; TypeError if it is not one."""
    import numpy as np

    array = value if isinstance(value, np.ndarray) else np.asarray(exported(value, handle))
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError(f"{array.dtype} cannot become {np.dtype(dtype)} without a copy")
        return array.astype(dtype)
    return array.copy() if copy else array
