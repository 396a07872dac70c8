"""Arrow arrays of every type, drawn by hypothesis; and values stored and read back without a host."""

from __future__ import annotations

import ctypes
import datetime
import decimal
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from shmclient import _codecs


def stored(value: object) -> tuple[dict[str, Any], memoryview]:
    """Return description and payload of a value, as a writer leaves them; the payload can be written."""
    encoded = _codecs.encode(value)
    payload = aligned(encoded.size)
    encoded.move(ctypes.addressof(ctypes.c_char.from_buffer(payload)))
    encoded.write(payload)
    return _codecs.unpack_metadata(encoded.metadata), payload


def aligned(size: int) -> memoryview:
    """Return memory at a multiple of 64, as regions and blocks of arenas are."""
    memory = bytearray(size + 128)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % 64
    return memoryview(memory)[start : start + max(size, 1)]


def round_trip(value: object) -> Any:
    """Return what a reader gets for a value."""
    metadata, payload = stored(value)
    return _codecs.decode(metadata, payload)


def addresses(array: Any) -> list[int]:
    """Return where the buffers of a pyarrow array lie, with those of its children."""
    return [buffer.address for buffer in array.buffers() if buffer is not None and buffer.size]


_NAMES = st.text("a\0 \u00e9\U0001f600", max_size=20)
_BYTES = st.binary(max_size=20)
_DECIMALS = st.integers(-999, 999).map(lambda number: decimal.Decimal(number).scaleb(-1))
_LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint16(), st.integers(0, 65535)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.float16(), st.floats(allow_nan=False, width=16)),
    (pa.string(), _NAMES),
    (pa.large_string(), _NAMES),
    (pa.string_view(), _NAMES),
    (pa.binary(), _BYTES),
    (pa.large_binary(), _BYTES),
    (pa.binary_view(), _BYTES),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal32(4, 1), _DECIMALS),
    (pa.decimal64(10, 1), _DECIMALS),
    (pa.decimal128(30, 1), _DECIMALS),
    (pa.decimal256(60, 1), _DECIMALS),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.timestamp("us", "Europe/Berlin"), st.integers(0, 2**50)),
    (
        pa.duration("ms"),
        st.timedeltas(max_value=datetime.timedelta(days=9), min_value=-datetime.timedelta(9)),
    ),
    (pa.month_day_nano_interval(), st.tuples(*[st.integers(-99, 99)] * 3)),
]


@st.composite
def arrays(draw: st.DrawFn, length: int | None = None, depth: int = 3) -> Any:
    """An array of some length, often a slice of a longer one."""
    count: int = draw(st.integers(0, 20)) if length is None else length
    before, after = draw(st.sampled_from([(0, 0), (1, 0), (0, 3), (5, 2), (8, 1), (13, 4)]))
    kinds = _NESTED if depth else [_leaf]
    make = draw(st.sampled_from([_leaf, *kinds]))
    return make(draw, before + count + after, depth - 1).slice(before, count)


def _leaf(draw: st.DrawFn, count: int, depth: int) -> Any:
    kind, values = draw(st.sampled_from(_LEAVES))
    if draw(st.booleans()):
        values |= st.none()
    return pa.array(draw(st.lists(values, min_size=count, max_size=count)), kind)


def _mask(draw: st.DrawFn, count: int) -> Any:
    if not draw(st.booleans()):
        return None
    return pa.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), pa.bool_())


def _struct(draw: st.DrawFn, count: int, depth: int) -> Any:
    children = [draw(arrays(count, depth)) for _ in range(draw(st.integers(1, 3)))]
    names = [f"c{number}" for number in range(len(children))]
    return pa.StructArray.from_arrays(children, names, mask=_mask(draw, count))


def _cuts(draw: st.DrawFn, count: int, length: int) -> list[int]:
    return sorted(draw(st.lists(st.integers(0, length), min_size=count + 1, max_size=count + 1)))


def _list(draw: st.DrawFn, count: int, depth: int) -> Any:
    child = draw(arrays(None, depth))
    cuts = _cuts(draw, count, len(child))
    if draw(st.booleans()):
        return pa.LargeListArray.from_arrays(pa.array(cuts, pa.int64()), child, mask=_mask(draw, count))
    return pa.ListArray.from_arrays(pa.array(cuts, pa.int32()), child, mask=_mask(draw, count))


def _map(draw: st.DrawFn, count: int, depth: int) -> Any:
    child = draw(arrays(None, depth))
    keys = pa.array([f"key {number}" for number in range(len(child))])
    return pa.MapArray.from_arrays(pa.array(_cuts(draw, count, len(child)), pa.int32()), keys, child)


def _list_view(draw: st.DrawFn, count: int, depth: int) -> Any:
    child = draw(arrays(None, depth))
    pairs = [sorted(draw(st.lists(st.integers(0, len(child)), min_size=2, max_size=2))) for _ in range(count)]
    kind, number = draw(
        st.sampled_from([(pa.ListViewArray, pa.int32()), (pa.LargeListViewArray, pa.int64())])
    )
    starts, sizes = [start for start, _ in pairs], [end - start for start, end in pairs]
    return kind.from_arrays(pa.array(starts, number), pa.array(sizes, number), child, mask=_mask(draw, count))


def _fixed_list(draw: st.DrawFn, count: int, depth: int) -> Any:
    width = draw(st.integers(1, 3))
    child = draw(arrays(count * width, depth))
    return pa.FixedSizeListArray.from_arrays(child, width, mask=_mask(draw, count))


def _dictionary(draw: st.DrawFn, count: int, depth: int) -> Any:
    words = pa.array(["a", "bb", "", None, "a text that is no view's own"]).slice(draw(st.integers(0, 3)))
    index = st.integers(0, len(words) - 1) | st.none()
    kind = draw(st.sampled_from([pa.int8(), pa.uint32(), pa.int64()]))
    indices = draw(st.lists(index, min_size=count, max_size=count))
    return pa.DictionaryArray.from_arrays(pa.array(indices, kind), words)


def _runs(draw: st.DrawFn, count: int, depth: int) -> Any:
    ends = sorted(draw(st.sets(st.integers(1, max(count, 1)), max_size=5)) | {max(count, 1)})
    kind = draw(st.sampled_from([pa.int16(), pa.int32(), pa.int64()]))
    values = _leaf(draw, len(ends), 0)
    return pa.RunEndEncodedArray.from_arrays(pa.array(ends, kind), values).slice(0, count)


def _sparse(draw: st.DrawFn, count: int, depth: int) -> Any:
    children = [draw(arrays(count, depth)), draw(arrays(count, depth))]
    types = draw(st.lists(st.sampled_from([3, 7]), min_size=count, max_size=count))
    return pa.UnionArray.from_sparse(pa.array(types, pa.int8()), children, ["a", "b"], [3, 7])


def _dense(draw: st.DrawFn, count: int, depth: int) -> Any:
    children = [draw(arrays(count + 2, depth)), draw(arrays(count + 1, depth))]
    types = draw(st.lists(st.sampled_from([0, 1]), min_size=count, max_size=count))
    places = [types[:number].count(kind) for number, kind in enumerate(types)]
    return pa.UnionArray.from_dense(pa.array(types, pa.int8()), pa.array(places, pa.int32()), children)


def _extension(draw: st.DrawFn, count: int, depth: int) -> Any:
    storage = _leaf(draw, count, 0)
    return pa.ExtensionArray.from_storage(pa.opaque(storage.type, "point", "shop"), storage)


_NESTED: list[Callable[[st.DrawFn, int, int], Any]] = [
    *(_struct, _list, _map, _list_view, _fixed_list, _dictionary, _runs, _sparse, _dense, _extension)
]
