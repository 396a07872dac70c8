"""The dict in a region: an index in the payload, in which keys are looked up when they are asked for.

The index is as untrusted as its creator, who may even write to it while it is read: `shm_dict.h` checks
all of it that a look-up uses, and the codecs check the description.
"""

from __future__ import annotations

import functools
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, NoReturn

from shmclient._codecs import buffers
from shmclient._codecs.items import plan_of, unpack_metadata
from shmclient._codecs.layout import Maker
from shmprotocol.errors import BadRegion
from shmprotocol.native.builtins import dict_count, dict_find, dict_records

PLAIN_MAX = (
    64  # keys: to make all values of such a dict takes some 30 us, about as long as to attach its region
)
CHUNK = 1000  # records that are listed at once
PLANNED_MAX = 4096  # bytes of a description whose plan is kept; that of a dtype of 50 fields has 2,000
SHOWN = 3  # keys in a repr

Record = tuple[str, int, int, bytes]  # key, offset and size of the value, description


class RegionDict(Mapping[str, Any]):
    """A large dict in a region, as `get` returns it: read-only, its values made when they are looked up.

    It costs as much to get for 100,000 keys as for 100. Every look-up makes a new view of the same memory,
    and each view keeps the region mapped, as the dict does. `dict(value)` makes all values at once;
    copies, pickles and `|` give plain dicts as well. BadRegion, at a look-up: the index is corrupt there.
    """

    __slots__ = ("__weakref__", "_count", "_data", "_index", "_size")

    def __init__(self) -> None:
        raise TypeError("a RegionDict has no constructor: use client.get()")

    def _start(self, index: memoryview, data: memoryview) -> None:
        self._index = index
        self._data = data
        self._size = len(data)
        self._count: int = dict_count(index, self._size)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: str) -> Any:
        try:
            entry = dict_find(self._index, self._size, key)
            if entry is not None:
                offset, size, description = entry
                return _plan(description)(self._data, offset, size)
        except Exception as error:
            _raise(error, key)
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            return dict_find(self._index, self._size, key) is not None
        except Exception as error:
            if isinstance(error, UnicodeEncodeError) or not isinstance(key, str):
                return False
            _raise(error, key)

    def __iter__(self) -> Iterator[str]:
        return (record[0] for record in self._records())

    def __reversed__(self) -> Iterator[str]:
        for stop in range(self._count, 0, -CHUNK):
            for record in reversed(self._listed(max(stop - CHUNK, 0), stop)):
                yield record[0]

    def values(self) -> ValuesView[Any]:
        """Return a view of the values; iterating makes them one by one."""
        return _RegionValues(self)

    def items(self) -> ItemsView[str, Any]:
        """Return a view of the pairs of keys and values; iterating makes the values one by one."""
        return _RegionItems(self)

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of all values, which are views of the same memory."""
        return dict(self._pairs())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and self.copy() == dict(other.items())

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: object) -> dict[str, Any]:
        return self.copy() | dict(other.items()) if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: object) -> dict[str, Any]:
        return dict(other.items()) | self.copy() if isinstance(other, Mapping) else NotImplemented

    def __reduce__(self) -> tuple[type[dict[str, Any]], tuple[dict[str, Any]]]:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        keys = ", ".join(repr(record[0]) for record in self._listed(0, SHOWN))
        return f"<RegionDict of {self._count} values: {keys}{', ...' if self._count > SHOWN else ''}>"

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        data = self._data
        make: Maker = buffers.flat
        last: bytes | None = None
        for key, offset, size, description in self._records():
            try:
                if description is not last:  # alike neighbours share the object
                    make, last = _plan(description), description
                value = make(data, offset, size)
            except Exception as error:
                _raise(error, key)
            yield key, value

    def _records(self) -> Iterator[Record]:
        for start in range(0, self._count, CHUNK):
            yield from self._listed(start, start + CHUNK)

    def _listed(self, start: int, stop: int) -> list[Record]:
        try:
            return dict_records(self._index, self._size, start, stop)
        except ValueError as error:
            raise BadRegion(f"{error}") from None


class _RegionItems(ItemsView[str, Any]):
    __slots__ = ()
    _mapping: RegionDict

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._pairs()


class _RegionValues(ValuesView[Any]):
    __slots__ = ()
    _mapping: RegionDict

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs())


def read_dict(offset: object, payload: memoryview, data: memoryview) -> dict[str, Any] | RegionDict:
    """Return the dict whose index is at an offset of the payload: a plain one if it is small.

    ValueError or BadRegion: the index is corrupt.
    """
    if type(offset) is not int or not 0 <= offset <= len(payload):
        raise ValueError(f"an index at {offset!r:.40} is not inside of {len(payload)}")
    value = RegionDict.__new__(RegionDict)
    value._start(payload[offset:], data)
    return value.copy() if len(value) <= PLAIN_MAX else value


def _plan(description: bytes) -> Maker:
    return _kept_plan(description) if len(description) <= PLANNED_MAX else _new_plan(description)


def _new_plan(description: bytes) -> Maker:
    return plan_of(unpack_metadata(description))


_kept_plan = functools.lru_cache(maxsize=1024)(_new_plan)  # 0.1 us instead of 4; of no region in particular


def _raise(error: Exception, key: object) -> NoReturn:
    """Raise what an error of a look-up means: what dicts raise for a key, or BadRegion."""
    if isinstance(error, BadRegion | ImportError | MemoryError):
        raise error
    if isinstance(error, UnicodeEncodeError) or not isinstance(key, str):
        hash(key)  # a TypeError, as in a dict
        raise KeyError(key) from None
    raise BadRegion(f"{key!r:.40}: the index does not fit the data: {error!r:.200}") from error
