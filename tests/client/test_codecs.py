"""Values to metadata and payload and back, with no host; what is refused, and with what advice."""

from __future__ import annotations

import array
import copy
import ctypes
import pickle
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shmclient
from shmclient import _codecs
from shmprotocol.wire.names import MAX_METADATA


def stored(value: object) -> tuple[dict[str, Any], memoryview]:
    """Return description and payload of a value, as a reader would see them."""
    encoded = _codecs.encode(value)
    payload = bytearray(encoded.size)
    for offset, chunk in encoded.chunks:
        payload[offset : offset + chunk.nbytes] = chunk
    return _codecs.unpack_metadata(encoded.metadata), memoryview(bytes(payload))


def round_trip(value: object) -> Any:
    return _codecs.decode(*stored(value))


def flags_of(dtype: Any) -> list[Any]:
    """Return what `==` of two dtypes does not compare, of it and of all in it."""
    inner = [dtype[name] for name in dtype.names or ()] if dtype.subdtype is None else [dtype.base]
    return [dtype.isalignedstruct, dtype.kind == "V" and dtype.type, dtype.metadata, *map(flags_of, inner)]


# --- what comes back the same


ALIGNED = np.dtype([("a", "u1"), ("b", "f8"), ("c", "u2")], align=True)
PARTIAL = np.dtype({"names": ["b", "a"], "formats": ["<i2", ">f4"], "offsets": [8, 2], "itemsize": 20})
OVERLAPPING = np.dtype({"names": ["whole", "low"], "formats": ["<u4", "<u2"], "offsets": [0, 0]})
RECORD = np.dtype((np.record, [("x", "<i4"), ("name", "<U3")]))
DTYPES = {
    "aligned": ALIGNED,
    "partial and out of order": PARTIAL,
    "overlapping": OVERLAPPING,
    "record": RECORD,
    "record inside": np.dtype([("r", RECORD), ("n", "u1")]),
    "titles": np.dtype([(("Title, é", "x"), "<i4"), ("", "f8", (2, 1, 0))]),
    "no fields": np.dtype([]),
    "no fields, but bytes": np.dtype({"names": [], "formats": [], "offsets": [], "itemsize": 8}),
    "fields of no bytes": np.dtype([("a", "S0"), ("b", "<i4"), ("c", "V0"), ("d", "U0")]),
    "bytes of zero": np.dtype("S0"),
    "void of zero": np.dtype("V0"),
    "long double": np.dtype(np.longdouble),
    "long long": np.dtype(np.longlong),
    "generic time": np.dtype("m8"),
    "weeks": np.dtype(">M8[25W]"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8": np.dtype(ml_dtypes.float8_e5m2),
    "int4": np.dtype(ml_dtypes.int4),
    "bfloat16 inside": np.dtype([("w", ml_dtypes.bfloat16, (2,)), ("n", "<i4")]),
    "sixteen deep": None,
}
DTYPES["sixteen deep"] = np.dtype("u1")
for _ in range(16):
    DTYPES["sixteen deep"] = np.dtype([("x", DTYPES["sixteen deep"])])


@pytest.mark.parametrize("name", DTYPES)
def test_dtype_comes_back_the_same(name: str) -> None:
    value = np.ndarray(3, DTYPES[name], bytes(range(256)) * 3)
    got = round_trip(value)
    assert (got.dtype, flags_of(got.dtype)) == (value.dtype, flags_of(value.dtype))
    assert (type(got), got.tobytes()) == (np.ndarray, value.tobytes())


LEAVES = hnp.scalar_dtypes() | st.sampled_from([np.dtype(ml_dtypes.bfloat16), np.dtype("S0"), np.dtype("V7")])
SHAPES = hnp.array_shapes(max_dims=2, max_side=2)


@st.composite
def structures(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    """Return a structured dtype with gaps, overlaps, titles, subarrays, flags and metadata."""
    count = draw(st.integers(0, 4))
    names = draw(st.lists(st.text(max_size=3), min_size=2 * count, max_size=2 * count, unique=True))
    formats = [draw(inner) for _ in range(count)]
    formats = [
        np.dtype((form, draw(st.just((1,)) | SHAPES))) if form.itemsize and draw(st.booleans()) else form
        for form in formats
    ]
    offsets = [draw(st.integers(0, 4)) * 16 for _ in range(count)]
    end = max([offset + form.itemsize for offset, form in zip(offsets, formats, strict=True)], default=0)
    columns: Any = {
        "names": names[:count],
        "formats": formats,
        "offsets": offsets,
        "itemsize": -(-end // 16) * 16,
        "titles": [draw(st.sampled_from([None, name])) for name in names[count:]],
    }
    metadata: Any = {"metadata": {"unit": "m"}} if draw(st.integers(0, 9)) == 5 else {}
    dtype = np.dtype(columns, align=bool(count) and draw(st.booleans()), **metadata)  # NumPy 1 dies without
    return np.dtype((np.record, dtype)) if draw(st.booleans()) and count else dtype


@given(dtype=st.recursive(LEAVES, structures, max_leaves=6), data=st.data())
def test_any_dtype_comes_back_the_same_or_is_refused(dtype: Any, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
    size = int(np.prod(shape)) * dtype.itemsize
    value = np.ndarray(shape, dtype, data.draw(st.binary(min_size=size, max_size=size)) or b"")
    try:
        got = round_trip(value)
    except TypeError:
        assert "'unit'" in str(flags_of(dtype)), dtype
        return
    assert (got.dtype, flags_of(got.dtype)) == (value.dtype, flags_of(value.dtype))
    assert (got.shape, got.tobytes()) == (value.shape, value.tobytes())


@pytest.mark.parametrize("order", ["C", "F"])
def test_class_of_numpy_comes_back(order: Any) -> None:
    records = np.rec.array([(1, "a"), (2, "b")], dtype=RECORD)
    got = round_trip(records)
    assert (type(got), got.dtype.type, got.name.tolist()) == (np.recarray, np.record, ["a", "b"])
    matrix = np.asarray([[1.0, 2], [3, 4], [5, 6]], order=order).view(np.matrix)
    got = round_trip(matrix)
    assert (type(got), got.A1.tolist()) == (np.matrix, [1, 2, 3, 4, 5, 6])
    assert got.flags.f_contiguous == matrix.flags.f_contiguous


def test_recarray_of_plain_numbers_comes_back() -> None:
    got = round_trip(np.arange(3).view(np.recarray))
    assert (type(got), got.tolist()) == (np.recarray, [0, 1, 2])


def test_memmap_comes_back_as_the_array_that_it_is(tmp_path: Any) -> None:
    value = np.memmap(tmp_path / "file", "<i4", "w+", shape=(2, 3))
    value[:] = 7
    got = round_trip(value)
    assert (type(got), got.tolist()) == (np.ndarray, [[7] * 3] * 2)


SCALARS = [
    np.float64(3),
    np.bool_(True),
    np.complex64(1j),
    np.longdouble(0.1),
    np.datetime64("2020-01-01", "D"),
    np.str_("text"),
    np.void(b"abc"),
    np.zeros((), PARTIAL)[()],
    ml_dtypes.bfloat16(1.5),
]


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda scalar: type(scalar).__name__)
def test_scalar_comes_back_as_an_array_without_dimensions(scalar: Any) -> None:
    got = round_trip({"x": scalar})["x"]
    assert (got.shape, got.dtype) == ((), scalar.dtype)
    assert got[()] == scalar
    assert type(got[()]) is type(scalar)


def test_bytes_scalar_keeps_the_zero_bytes_at_its_end() -> None:
    assert bytes(round_trip(np.bytes_(b"ab\0\0"))) == b"ab\0\0"


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_int)]


BUFFERS = {
    "int": ((ctypes.c_int * 3)(1, 2, 3), "i", [1, 2, 3]),
    "long": ((ctypes.c_long * 2)(-1, 1 << 40), "q", [-1, 1 << 40]),
    "unsigned": ((ctypes.c_uint32 * 1)(1 << 31), "I", [1 << 31]),
    "two dimensions": (((ctypes.c_double * 2) * 2)((1, 2), (3, 4)), "d", [[1.0, 2.0], [3.0, 4.0]]),
    "no dimension": (ctypes.c_int(7), "i", 7),
    "bool": ((ctypes.c_bool * 2)(True, False), "?", [True, False]),
    "char": ((ctypes.c_char * 2)(b"a", b"b"), "c", [b"a", b"b"]),
    "byte of the other order": ((ctypes.c_int8.__ctype_be__ * 2)(1, -1), "b", [1, -1]),
    "unaligned": (
        memoryview(np.frombuffer(bytes(range(9)), "u1")[1:].view("<i4")),
        "i",
        [67305985, 134678021],
    ),
    "explicit native": (memoryview(b"abcd").cast("@h"), "h", [25185, 25699]),
    "array": (array.array("d", [1.5]), "d", [1.5]),
    "strides": (memoryview(bytes(range(6)))[::-2], "B", [5, 3, 1]),
    "empty": (array.array("f"), "f", []),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffer_comes_back_with_its_items(name: str) -> None:
    value, item, items = BUFFERS[name]
    got = round_trip(value)
    assert (got.format, got.tolist()) == (item, items)
    assert got.shape == memoryview(value).shape


# --- what is refused, and with what advice


class Quantity(np.ndarray):
    """As in astropy: an array with a unit."""

    unit = "m"


REFUSED = {
    "mask": (np.ma.array([1.0, 100.0, 3.0], mask=[0, 1, 0]), "filled"),
    "mask of nothing": (np.ma.array([1.0]), "mask"),
    "masked": (np.ma.masked, "mask"),
    "unit": (np.zeros(3).view(Quantity), r"Quantity.*asarray"),
    "own recarray": (np.zeros(3, RECORD).view(type("Mine", (np.recarray,), {})), "Mine"),
    "namesake": (np.zeros((1, 1)).view(type("matrix", (np.ndarray,), {})), r"matrix.*asarray"),
    "objects": (np.array([None]), "objects"),
    "objects inside": (np.zeros(1, [("a", [("b", "O")])]), "objects"),
    "metadata": (np.zeros(1, np.dtype("f4", metadata={"unit": "m"})), "metadata"),
    "metadata inside": (np.zeros(1, [("a", np.dtype("f4", metadata={"unit": "m"}), (2,))]), "metadata"),
    "own scalar type": (np.zeros(1, np.dtype((type("Mine", (np.void,), {}), [("a", "i4")]))), "without loss"),
    "other order of bfloat16": (np.zeros(1, ml_dtypes.bfloat16).view("V2").view(
        np.dtype(ml_dtypes.bfloat16).newbyteorder(">")), "without loss"),
    "title that is a number": (np.zeros(1, [((1, "a"), "i4")]), "without loss"),
    "structures": ((Point * 2)(), "asarray"),
    "foreign order": ((ctypes.c_int.__ctype_be__ * 2)(1, 2), "asarray"),
    "wide characters": ((ctypes.c_wchar * 4)(*"text"), "asarray"),
    "objects of ctypes": ((ctypes.py_object * 1)(None), "asarray"),
    "nothing in two dimensions": (((ctypes.c_int * 3) * 0)(), "asarray"),
    "a set": ({1}, "set.*put_object"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inside", [False, True])
def test_value_is_refused_with_advice_when_it_would_lose_something(name: str, inside: bool) -> None:
    value, advice = REFUSED[name]
    with pytest.raises(TypeError, match=advice):
        _codecs.encode({"a": value} if inside else value)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1 has no text of any width")
def test_text_of_any_width_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match=r"StringDType.*astype\('U'\)"):
        _codecs.encode(np.array(["a"], np.dtypes.StringDType()))


def test_seventeen_structures_in_each_other_are_refused() -> None:
    with pytest.raises(TypeError, match="16"):
        _codecs.encode(np.zeros(1, [("x", DTYPES["sixteen deep"])]))


@pytest.mark.parametrize("value", [{"\ud800": b""}, np.zeros(1, [("\ud800", "i4")])], ids=["key", "field"])
def test_name_that_is_not_unicode_is_refused(value: Any) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="UTF-8"):
        _codecs.encode(value)


def test_what_can_be_encoded_is_told_by_its_kind() -> None:
    values = [b"", bytearray(), np.zeros(1), np.float32(1), {}, ctypes.c_int(1)]
    values += ["text", 1, None, [b""], (), True, 1.5, shmclient.pickled({1})]
    assert [_codecs.can_encode(value) for value in values] == [True] * len(values)
    assert [_codecs.can_encode(value) for value in ({1}, 1j, object())] == [False] * 3


def test_array_of_ml_dtypes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    description, data = stored(np.ones(3, ml_dtypes.float8_e4m3fn))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    _codecs.dtypes._named.cache_clear()
    with pytest.raises(ImportError, match=r"float8_e4m3fn.*pip install ml_dtypes"):
        _codecs.decode(description, data)


# --- arrays that are built in place


@pytest.mark.parametrize("order", ["C", "F"])
def test_described_array_is_what_put_would_have_written(order: Any) -> None:
    description, _ = stored(np.zeros((2, 3), ALIGNED, order))
    assert _codecs.describe_array(ALIGNED, (2, np.int64(3)), order) == description  # type: ignore[arg-type]
    assert _codecs.describe_array("<f4", [], offset=64)["offset"] == 64
    assert _codecs.describe_array("<f4", [])["size"] == 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("f4", [-1]), ValueError),
        (("f4", [1], "K"), ValueError),
        (("f4", [1] * 65), ValueError),
        (("O", [1]), TypeError),
        (("(2,)f4", [1]), TypeError),
    ],
)
def test_array_is_described_only_if_it_can_be(arguments: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        _codecs.describe_array(*arguments)


# --- copies


def test_copy_of_a_value_is_writable_and_pickles() -> None:
    got = round_trip(np.rec.array([(1, "a")], dtype=RECORD))
    for duplicate in (got.copy(), copy.deepcopy(got), pickle.loads(pickle.dumps(got))):
        assert duplicate.flags.writeable
        assert (type(duplicate), duplicate.tolist()) == (np.recarray, [(1, "a")])


def test_description_is_limited_to_what_a_reader_takes() -> None:
    with pytest.raises(shmclient.InvalidArgument, match="fewer fields"):
        _codecs.encode(np.zeros(1, [("x" * MAX_METADATA, "u1")]))
