"""Values of regions as references: arrays and buffers that `get` returned cross processes in place.

An array is named by its region and by where it lies in there, so that slices and transposed views cross, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from shmclient._arenas.owner import Arena
from shmclient._connection.hosts import path_of
from shmclient._drivers.references import open_region, open_view, sent
from shmclient._pins.pinner import Pinner
from shmclient._process.address_space import ADDRESS_SPACE, Place
from shmclient._process.copying import not_copied
from shmclient._regions.region import RegionHandle, attached
from shmprotocol.errors import BadRegion
from shmprotocol.tuples import NamedTuple
from shmprotocol.wire.names import origin_of

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


class _Spot(NamedTuple):
    """Where a value lies: what opens it there, its region's mapping (of an arena: none), and where in it."""

    function: Callable[..., Any]
    mapping: Place | None
    arguments: tuple[Any, ...]


class Reference:
    """A value on its way: pickled as its place in a region, and unpickled as the value itself."""

    __slots__ = ("_value",)
    _value: Any

    def __init__(self, value: Any) -> None:
        raise TypeError("a Reference is made by shmclient.reference(value)")

    def __reduce__(self) -> Reduced:
        spot = _spot(self._value)
        assert spot is not None  # it was looked at, and holds its region since
        return _sent(spot, self._value)

    def __copy__(self) -> NoReturn:
        raise not_copied(self, "copy the value")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise not_copied(self, "copy the value")

    def __repr__(self) -> str:
        return f"<Reference to {type(self._value).__name__}>"


def reference(value: Any) -> Any:
    """Return what is pickled as a reference to a value that `get` has returned, and unpickled as that value.

    In lists, tuples and dicts, each array and memoryview becomes a reference. Handles of regions and views of
    arenas are references as they are; the owner of an arena becomes one to a view of it. The region is kept
    as long as the value lives here, and for each pickle until that is loaded, for ten minutes at most, even
    if this process ends. TypeError: the value is not in a region, or in an arena, whose memory will have
    other values.
    """
    if type(value) in (list, tuple):
        return type(value)(map(reference, value))
    if isinstance(value, Mapping) and not isinstance(value, Arena):
        return {key: reference(item) for key, item in value.items()} if _is_dict(value) else value
    if isinstance(value, RegionHandle | str | int | float | bool | None):
        return value
    if _spot(value) is None:
        raise TypeError(
            f"this {type(value).__name__} is not in a region: put() it, and refer to what get() returns; "
            "a value of an arena crosses by its name"
        )
    wrapped = Reference.__new__(Reference)
    wrapped._value = value
    return wrapped


def share_arrays() -> None:
    """Have `multiprocessing` and `concurrent.futures` send arrays of regions as references, from now on.

    Memoryviews of regions as well; other arrays are copied as before. joblib has pickles of its own: use
    `reference` with it.
    """
    from multiprocessing.reduction import ForkingPickler

    import numpy as np

    ForkingPickler.register(np.ndarray, _reduce_array)
    ForkingPickler.register(memoryview, _reduce_buffer)


def open_array(address: tuple[Any, ...], offset: int, shape: Any, dtype: Any, strides: Any) -> Any:
    """Return an array of a region, which keeps it mapped. BadRegion: it is not inside."""
    import numpy as np

    with open_region(*address) as region:
        view = attached(region).view()
    try:
        return np.ndarray(shape, dtype, view, offset, strides)
    except (TypeError, ValueError) as error:
        raise BadRegion(f"an array of shape {shape} is not at {offset} of {region!r}: {error}") from None


def open_buffer(address: tuple[Any, ...], offset: int, size: int, code: str, shape: Any) -> memoryview:
    """Return a memoryview of a region, which keeps it mapped. BadRegion: it is not inside."""
    with open_region(*address) as region:
        view = attached(region).view()[offset : offset + size]
    if len(view) != size:
        raise BadRegion(f"{size} bytes at {offset} are not in {region!r}")
    return view if code == "B" and len(shape) == 1 else view.cast(code, shape)  # type: ignore[call-overload]


def _is_dict(value: Mapping[Any, Any]) -> bool:
    return not hasattr(value, "_reader")  # a view of an arena is a reference itself


def _spot(value: Any) -> _Spot | None:
    """Return where a value lies that can be pickled as a reference; None if it lies in no region."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) is numpy.ndarray:
        return _array(value)
    if type(value) is memoryview:
        return _buffer(value)
    if isinstance(value, Arena):
        return _Spot(open_view, None, (path_of(origin_of(value._outbox.host_id)), value.name))
    return None


def _array(array: Any) -> _Spot | None:
    address = array.__array_interface__["data"][0]
    mapping = None if array.flags.writeable or array.dtype.hasobject else _place_of(address)
    if mapping is None:
        return None
    return _Spot(open_array, mapping, (address - mapping.address, array.shape, array.dtype, array.strides))


def _buffer(view: memoryview) -> _Spot | None:
    if not view.readonly or not view.c_contiguous or not view.nbytes:
        return None
    with Pinner() as pinner:
        address = pinner.pin(view).address
    mapping = _place_of(address)
    if mapping is None:
        return None
    return _Spot(open_buffer, mapping, (address - mapping.address, view.nbytes, view.format, view.shape))


def _place_of(address: int) -> Place | None:
    mapping = ADDRESS_SPACE.find(address)
    return mapping if mapping is not None and mapping.is_lasting and not mapping.is_arena else None


def _sent(spot: _Spot, value: Any) -> Reduced:
    """Return how a value, which lies there, is pickled now."""
    mapping = spot.mapping
    if mapping is None:
        return spot.function, spot.arguments
    return spot.function, (tuple(sent(*mapping.identity, mapping.label, value)), *spot.arguments)


def _reduce_array(array: Any) -> Any:
    spot = _array(array) if array.__class__.__module__ == "numpy" else None
    return array.__reduce__() if spot is None else _sent(spot, array)


def _reduce_buffer(view: memoryview) -> Any:
    spot = _buffer(view)
    if spot is None:
        raise TypeError("a memoryview is pickled if it is of a region: use bytes(view) for a copy")
    return _sent(spot, view)
