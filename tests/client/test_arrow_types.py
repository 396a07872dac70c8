"""Arrow arrays of every type, whole and in slices, come back equal; slices are stored without the rest."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import given, settings

pa = pytest.importorskip("pyarrow")

from arrow_support import arrays, round_trip, stored  # noqa: E402


@given(arrays())
@settings(deadline=None)
def test_array_comes_back_equal(array: Any) -> None:
    value = round_trip(array)
    back = pa.array(value)
    back.validate(full=True)
    assert back.type == array.type
    assert back.equals(array)
    assert len(value) == len(array)


@given(arrays(), arrays())
@settings(deadline=None)
def test_values_beside_each_other_in_a_dict_come_back_equal(first: Any, second: Any) -> None:
    value = round_trip({"first": first, "bytes": b"between", "second": second})
    assert pa.array(value["first"]).equals(first)
    assert pa.array(value["second"]).equals(second)
    assert value["bytes"] == b"between"


SECRET = "what no reader may see " * 2
LONG = [SECRET] * 40 + ["a text that the slice has"] * 8 + [SECRET] * 40
PART = slice(40, 48)
HIDDEN = {
    "string": pa.array(LONG),
    "view": pa.array(LONG, pa.string_view()),
    "fixed": pa.array([text.encode()[:24] for text in LONG], pa.binary(24)),
    "list": pa.array([[text] for text in LONG]),
    "list view": pa.array([[text] for text in LONG], pa.list_view(pa.string())),
    "fixed list": pa.array([[text, text] for text in LONG], pa.list_(pa.string(), 2)),
    "struct": pa.array([{"a": text} for text in LONG]),
    "runs": pa.RunEndEncodedArray.from_arrays([*range(1, 89)], LONG),
    "sparse": pa.UnionArray.from_sparse(pa.array([0] * 88, pa.int8()), [pa.array(LONG)]),
    "dense": pa.UnionArray.from_dense(
        pa.array([0] * 88, pa.int8()), pa.array(range(88), pa.int32()), [pa.array(LONG)]
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_slice_is_stored_without_what_it_does_not_show(kind: str) -> None:
    part = HIDDEN[kind][PART]
    assert SECRET[:20].encode() in ctypes.string_at(*_place(HIDDEN[kind]))
    content = bytes(stored(part)[1])
    assert SECRET[:20].encode() not in content
    assert pa.array(round_trip(part)).equals(part)


def _place(array: Any) -> tuple[int, int]:
    """Return where the text of an array lies, and its bytes."""
    buffer = max((buffer for buffer in array.buffers() if buffer is not None), key=lambda each: each.size)
    return buffer.address, buffer.size


def test_null_of_a_view_does_not_bring_its_text() -> None:
    views = pa.array([SECRET, "short", SECRET], pa.string_view())
    hidden = pa.Array.from_buffers(views.type, 3, [pa.py_buffer(b"\x02"), *views.buffers()[1:]])
    assert hidden.to_pylist() == [None, "short", None]
    assert b"no reader" not in bytes(stored(hidden)[1])
    assert pa.array(round_trip(hidden)).to_pylist() == [None, "short", None]


def test_dictionary_of_many_batches_is_stored_once() -> None:
    words = pa.array([f"word {number:0200}" for number in range(100)])
    batches = [
        pa.record_batch({"w": pa.DictionaryArray.from_arrays(pa.array([n, n + 1], pa.int8()), words)})
        for n in range(50)
    ]
    value = round_trip(pa.Table.from_batches(batches))
    assert value.batch_count == 50
    assert value.nbytes < 2 * words.nbytes + 50 * 1000
    assert pa.table(value).equals(pa.Table.from_batches(batches))


def test_types_may_nest_63_deep_and_no_deeper() -> None:
    kind = pa.int8()
    for _ in range(63):
        kind = pa.list_(kind)
    assert pa.array(round_trip(pa.array([None, []], kind))).type == kind
    with pytest.raises(TypeError, match="nests more than 63"):
        round_trip(pa.array([None, []], pa.list_(kind)))


def test_metadata_of_fields_and_tables_comes_back() -> None:
    field = pa.field("a", pa.int8(), nullable=False, metadata={"unit": "m", "": "\0\1"})
    table = pa.table([pa.array([1], pa.int8())], schema=pa.schema([field], metadata={"of": "table"}))
    schema = pa.schema(round_trip(table))
    assert schema.equals(table.schema, check_metadata=True)
    assert not schema.field("a").nullable


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_table_has_its_batches(batches: int) -> None:
    schema = pa.schema({"a": pa.int8(), "b": pa.string()})
    each = pa.record_batch([pa.array([1, 2], pa.int8()), ["x", None]], schema)
    table = pa.Table.from_batches([each] * batches, schema)
    value = round_trip(table)
    assert pa.table(value).equals(table)
    assert (len(value), value.batch_count, value.column_names) == (2 * batches, batches, ("a", "b"))


def test_table_without_columns_keeps_its_rows() -> None:
    batch = pa.record_batch([pa.array([1, 2])], ["a"]).select([])
    assert pa.record_batch(round_trip(batch)).num_rows == 2
