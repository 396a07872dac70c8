"""Arrow data: what has `__arrow_c_stream__` or `__arrow_c_array__`, stored as structs with pointers.

Needs no library of Arrow's. The value begins with a `struct shm_arrow_table`; see `shm_arrow.h`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shmclient._codecs.layout import Layout, Maker

FORMAT = "arrow"
_METHODS = ("__arrow_c_array__", "__arrow_c_stream__")


def can_encode(obj: object) -> bool:
    """Whether the object has one of Arrow's methods."""
    kind = type(obj)
    return hasattr(kind, _METHODS[0]) or hasattr(kind, _METHODS[1])


def encode(obj: Any, layout: Layout) -> dict[str, Any]:
    """Add the structs and what they show of their buffers, most of which are not copied here. TypeError."""
    from shmclient._codecs.arrow_source import read_source
    from shmclient._codecs.arrow_writing import write_image

    offset, size = write_image(read_source(obj), layout)
    return {"format": FORMAT, "offset": offset, "size": size}


def plan(item: Mapping[str, Any]) -> Maker:
    """Return what makes values over the bytes of a payload."""
    from shmclient._codecs.arrow_value import make_value

    return make_value
