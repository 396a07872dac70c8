"""Named tuples of this project behave as typing's, and the constructor is that of their own fields."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from typing import Any

import pytest

from shmprotocol.tuples import NamedTuple


class Ours(NamedTuple):
    """A item."""

    name: str
    offset: int
    size: int = 8
    tags: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.size


class Theirs(typing.NamedTuple):
    """A item."""

    name: str
    offset: int
    size: int = 8
    tags: tuple[str, ...] = ()

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + self.size


class Empty(NamedTuple):
    """Nothing."""


USES: dict[str, typing.Callable[[Any], object]] = {
    "by place": lambda kind: tuple(kind("a", 1, 2, ("b",))),
    "by name": lambda kind: tuple(kind(size=2, name="a", offset=1)),
    "defaults": lambda kind: tuple(kind("a", 1)),
    "attributes": lambda kind: (kind("a", 1).name, kind("a", 1).size, kind("a", 1).end),
    "fields": lambda kind: (
        kind._fields,
        kind._field_defaults,
        kind.__match_args__,
        list(kind.__annotations__),
    ),
    "hints": typing.get_type_hints,
    "replaced": lambda kind: tuple(kind("a", 1)._replace(offset=5)),
    "made": lambda kind: tuple(kind._make(["a", 1, 2, ()])),
    "as a dict": lambda kind: kind("a", 1)._asdict(),
    "equal": lambda kind: kind("a", 1) == ("a", 1, 8, ()) and hash(kind("a", 1)) == hash(("a", 1, 8, ())),
    "text": lambda kind: repr(kind("a", 1)).replace(kind.__name__, ""),
    "docstring": lambda kind: (kind.__doc__, inspect.getdoc(kind.offset)),
    "parameters": lambda kind: [
        (each.name, each.default, each.kind) for each in inspect.signature(kind).parameters.values()
    ],
    "pickled": lambda kind: type(pickle.loads(pickle.dumps(kind("a", 1)))) is kind,
    "copied": lambda kind: copy.deepcopy(kind("a", 1, 2, ("b",))) == ("a", 1, 2, ("b",)),
    "compared": lambda kind: kind("a", 1) < kind("a", 2),
    "no dict": lambda kind: hasattr(kind("a", 1), "__dict__"),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_named_tuple_behaves_as_one_of_typing(use: typing.Callable[[Any], object]) -> None:
    assert use(Ours) == use(Theirs)


@pytest.mark.parametrize("arguments", [{}, {"name": "a"}, {"name": "a", "offset": 1, "more": 2}])
def test_a_constructor_refuses_wrong_fields_as_one_of_typing(arguments: dict[str, Any]) -> None:
    kinds: list[Any] = [Ours, Theirs]
    texts = []
    for kind in kinds:
        with pytest.raises(TypeError) as refused:
            kind(**arguments)
        texts.append(str(refused.value).replace(kind.__name__, ""))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("items", [["a", 1, 2], ["a", 1, 2, (), 3]])
def test_make_refuses_a_wrong_number_of_items(items: list[object]) -> None:
    with pytest.raises(TypeError, match=f"Ours has 4 fields, not {len(items)}"):
        Ours._make(items)


def test_replace_refuses_a_field_that_is_not_there() -> None:
    kind: Any = Ours
    with pytest.raises(ValueError, match="more"):
        kind("a", 1)._replace(more=2)


def test_a_field_cannot_be_set() -> None:
    item: Any = Ours("a", 1)
    with pytest.raises(AttributeError):
        item.offset = 2


def test_a_pattern_takes_the_fields_in_their_order() -> None:
    match Ours("a", 1):
        case Ours(name, offset):
            assert (name, offset) == ("a", 1)
        case _:
            raise AssertionError("it is a place")


def test_a_field_that_a_tuple_has_as_a_method_is_no_default() -> None:
    class Tally(NamedTuple):
        count: int  # type: ignore[assignment]
        kind: str

    assert Tally._field_defaults == {}
    assert Tally(2, "a").count == 2


def test_a_tuple_without_fields_is_empty() -> None:
    assert Empty() == ()


def test_a_class_below_one_has_its_fields() -> None:
    class Below(Ours):
        pass

    assert Below("a", 1)._replace(offset=2) == ("a", 2, 8, ())
    assert type(Below("a", 1)._replace(offset=2)) is Below


def test_the_type_of_a_class_is_that_of_a_plain_one() -> None:
    assert type(Ours) is type(Theirs) is type
