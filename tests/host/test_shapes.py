"""Records of another host have the types that their annotations name, or are refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack
import pytest

from shmhost.core.heritage import pack, unpack
from shmhost.core.shapes import maker
from shmhost.core.state_records import HostRecord, MeterRecord


class Inner(NamedTuple):
    name: str
    is_good: bool


class Outer(NamedTuple):
    number: int
    inner: Inner | None
    some: tuple[Inner, ...]
    pair: tuple[bytes, float]


GOOD = (1, ("a", True), (("b", False), ("c", True)), (b"x", 0.5))


def changed(value: Any, path: tuple[int, ...], to: object) -> Any:
    if not path:
        return to
    index, *rest = path
    return (*value[:index], changed(value[index], tuple(rest), to), *value[index + 1 :])


def test_values_become_named_tuples() -> None:
    outer = maker(Outer)(GOOD)
    assert outer == GOOD
    assert (type(outer), type(outer.inner), type(outer.some[1])) == (Outer, Inner, Inner)
    assert maker(Outer)(changed(GOOD, (1,), None)).inner is None
    assert maker(Outer)(changed(GOOD, (2,), ())).some == ()


@pytest.mark.parametrize(
    ("path", "to"),
    [
        ((0,), True),
        ((0,), "1"),
        ((0,), None),
        ((1,), ("a",)),
        ((1,), ("a", True, 3)),
        ((1, 1), 1),
        ((2,), "bc"),
        ((2,), None),
        ((2, 1), "c"),
        ((2, 1, 0), b"c"),
        ((3,), (b"x",)),
        ((3, 1), 1),
        ((), [1]),
        ((), {"number": 1}),
    ],
)
def test_values_of_another_shape_are_refused(path: tuple[int, ...], to: object) -> None:
    with pytest.raises(ValueError, match=r"is not of type|values instead of|is not a sequence"):
        maker(Outer)(changed(GOOD, path, to))


def test_host_is_described_by_its_types_alone() -> None:
    meter = MeterRecord(1, 2, 3, 4, (("full", 1),), (("put", (1, 2), 3),))
    head, tail = ("h", 1, (1, 2, 3), (4, 5)), (9, False, 8, ("", ()), (b"", 0.0), (0, (), ()), (), None)
    record = HostRecord(*head, meter, (0, 0), (), (), (), (), (), *tail)
    assert unpack(pack(record)) == record
    for index in range(len(record)):
        for other in ({}, -0.25 if type(record[index]) is int else 7):
            wrong = changed(record, (index,), other)
            with pytest.raises(ValueError, match=r"is not"):
                unpack(msgpack.packb(wrong))
