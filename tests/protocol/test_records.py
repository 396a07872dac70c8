"""Arrays against the annotations of named tuples: each kind of field at its edges, and what errors show."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmprotocol.wire.names import MAX_ARRAY
from shmprotocol.wire.records import Record, shown
from strategies import ANY_VALUE


class Point(NamedTuple):
    """Two numbers."""

    x: int
    y: int


class Plain(NamedTuple):
    """A field of each plain kind."""

    number: int
    text: str
    raw: bytes
    flag: bool


class Nested(NamedTuple):
    """A field of each kind of array."""

    numbers: tuple[int, ...]
    texts: tuple[str, ...]
    pair: tuple[int, int]
    point: Point
    points: tuple[Point, ...]


class Wordless(NamedTuple):
    """No number at all."""

    text: str


PLAIN, NESTED, WORDLESS = Record(Plain), Record(Nested), Record(Wordless)
GOOD = (1, "a", b"b", True)
WHOLE = ((1, 2), ("a",), (3, 4), (5, 6), ((7, 8), (9, 10)))


def nested(**changes: Any) -> tuple[Any, ...]:
    return tuple(Nested(*WHOLE)._replace(**changes))


@pytest.mark.parametrize("number", [0, 1, 2**63, 2**64 - 1])
def test_number_is_taken_up_to_64_bits(number: int) -> None:
    assert PLAIN((number, *GOOD[1:])) == Plain(number, "a", b"b", True)
    assert NESTED(nested(numbers=(number,), pair=(number, number))).pair == (number, number)


@pytest.mark.parametrize("number", [-1, 2**64, -(2**63), 2**500, True, 1.0, "1", None, (1,)])
def test_number_is_refused_by_its_field(number: object) -> None:
    with pytest.raises(TypeError, match=r"^number: .* is not an integer from 0 to 2\*\*64 - 1$"):
        PLAIN((number, *GOOD[1:]))


@pytest.mark.parametrize("number", [-1, 2**64, True, 1.0, "1", None, (1,)])
@pytest.mark.parametrize(
    ("field", "wrap"),
    [
        ("numbers", lambda number: (0, number)),
        ("pair", lambda number: (0, number)),
        ("point", lambda number: (0, number)),
        ("points", lambda number: ((0, 0), (0, number))),
    ],
)
def test_number_inside_of_an_array_is_refused(field: str, wrap: Any, number: object) -> None:
    with pytest.raises(TypeError, match=r"integer|not a int"):
        NESTED(nested(**{field: wrap(number)}))


@pytest.mark.parametrize(
    ("index", "value", "kind"),
    [(1, b"a", "str"), (1, 1, "str"), (2, "b", "bytes"), (2, bytearray(b"b"), "bytes"), (3, 1, "bool")],
)
def test_other_type_is_refused_by_its_field(index: int, value: object, kind: str) -> None:
    fields = [*GOOD[:index], value, *GOOD[index + 1 :]]
    with pytest.raises(TypeError, match=f"^{Plain._fields[index]}: .* is not a {kind}$"):
        PLAIN(tuple(fields))


@pytest.mark.parametrize("count", range(4))
def test_missing_fields_are_counted(count: int) -> None:
    with pytest.raises(TypeError, match=f"^Plain has 4 fields, not {count}$"):
        PLAIN(GOOD[:count])


class Grown(NamedTuple):
    """A record with two fields that a later version appended."""

    number: int
    flag: bool = False
    points: tuple[Point, ...] = ()


def test_appended_fields_have_their_defaults_when_an_earlier_version_sends_none() -> None:
    grown = Record(Grown)
    assert grown((1,)) == Grown(1, False, ())
    assert grown((1, True)) == Grown(1, True, ())
    assert grown((1, True, ((2, 3),), "later")) == Grown(1, True, (Point(2, 3),))
    with pytest.raises(TypeError, match="Grown has 3 fields, not 0"):
        grown(())
    with pytest.raises(TypeError, match="flag: 1 is not a bool"):
        grown((1, 1))


def test_later_fields_are_ignored_in_every_array() -> None:
    assert PLAIN((*GOOD, "later", None)) == Plain(*GOOD)
    later = nested(pair=(3, 4, "later"), point=(5, 6, None), points=((7, 8, -1),))
    taken = NESTED(later)
    assert (taken.pair, taken.point, taken.points) == ((3, 4), Point(5, 6), (Point(7, 8),))


def test_records_in_a_record_become_named_tuples() -> None:
    taken = NESTED(WHOLE)
    assert type(taken.point) is Point
    assert [type(point) for point in taken.points] == [Point, Point]
    assert taken == Nested((1, 2), ("a",), (3, 4), Point(5, 6), (Point(7, 8), Point(9, 10)))


def test_record_without_a_number_is_checked_too() -> None:
    assert WORDLESS(("",)) == Wordless("")
    with pytest.raises(TypeError, match="text: 1 is not a str"):
        WORDLESS((1,))


@pytest.mark.parametrize(("field", "item"), [("numbers", 1), ("texts", "a"), ("points", (1, 2))])
def test_array_is_taken_up_to_its_limit(field: str, item: object) -> None:
    assert len(getattr(NESTED(nested(**{field: (item,) * MAX_ARRAY})), field)) == MAX_ARRAY
    assert getattr(NESTED(nested(**{field: ()})), field) == ()
    with pytest.raises(TypeError, match=f"{MAX_ARRAY + 1} items are over the {MAX_ARRAY}"):
        NESTED(nested(**{field: (item,) * (MAX_ARRAY + 1)}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("numbers", (1, "a")),
        ("texts", ("a", 1)),
        ("texts", "ab"),
        ("pair", (1,)),
        ("pair", ()),
        ("point", (1,)),
        ("points", ((1, 2), (1,))),
        ("points", (1, 2)),
        ("points", ((1, 2), None)),
    ],
)
def test_array_of_another_shape_is_refused(field: str, value: object) -> None:
    with pytest.raises(TypeError):
        NESTED(nested(**{field: value}))


@given(st.tuples(*[ANY_VALUE] * 5))
def test_any_fields_make_the_record_or_a_type_error(fields: tuple[Any, ...]) -> None:
    for record, hints in ((PLAIN, Plain), (NESTED, Nested), (WORDLESS, Wordless)):
        try:
            taken = record(fields)
        except TypeError:
            continue
        assert type(taken) is hints
        assert len(taken) == len(hints._fields)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x" * 1000, repr("x" * 40)),
        (b"\0" * 1000, repr(b"\0" * 40)),
        (7, "7"),
        (2**128 - 1, str(2**128 - 1)),
        (2**128, "an integer of 129 bits"),
        (-(2**1000), "an integer of 1001 bits"),
        ((1, 2, 3), "an array of 3"),
        (None, "None"),
        (1.5, "1.5"),
        ({1: 2}, "a dict"),
    ],
)
def test_shown_is_short_whatever_the_value(value: object, text: str) -> None:
    assert shown(value) == text


def test_shown_does_not_follow_a_nested_value() -> None:
    deep: Any = ()
    for _ in range(100_000):
        deep = (deep,)
    assert shown(deep) == "an array of 1"
    while deep:  # or freeing it may end the process
        (deep,) = deep
