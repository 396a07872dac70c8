"""Values of msgpack as the types that annotations name: numbers, strings, tuples and NamedTuples. Pure."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

Maker = Callable[[Any], Any]


@functools.cache
def maker(hint: Any) -> Maker:
    """Return what makes a value of a type from what msgpack unpacks. ValueError: it is of another shape."""
    if get_origin(hint) is types.UnionType:
        return _optional(*get_args(hint))
    if get_origin(hint) is tuple:
        return _sequence(*get_args(hint))
    fields = getattr(hint, "_fields", None)
    return _plain(hint) if fields is None else _named(hint, fields)


def _plain(kind: type) -> Maker:
    def make(value: Any) -> Any:
        if type(value) is not kind:
            raise ValueError(f"{value!r:.40} is not of type {kind.__name__}")
        return value

    return make


def _optional(hint: Any, nothing: Any) -> Maker:
    assert nothing is types.NoneType, nothing
    make = maker(hint)
    return lambda value: None if value is None else make(value)


def _sequence(first: Any, *others: Any) -> Maker:
    if others != (...,):
        return _tuple((maker(first), *map(maker, others)))
    make = maker(first)
    return lambda value: tuple(map(make, _checked(value)))


def _tuple(makers: tuple[Maker, ...]) -> Maker:
    def make(value: Any) -> tuple[Any, ...]:
        if len(_checked(value)) != len(makers):
            raise ValueError(f"{len(value)} values instead of {len(makers)}: {value!r:.40}")
        return tuple([make(each) for make, each in zip(makers, value, strict=True)])

    return make


def _named(kind: Any, fields: tuple[str, ...]) -> Maker:
    hints = get_type_hints(kind)
    make = _tuple(tuple([maker(hints[name]) for name in fields]))
    return lambda value: kind._make(make(value))


def _checked(value: Any) -> tuple[Any, ...]:
    if type(value) is not tuple:
        raise ValueError(f"{value!r:.40} is not a sequence")
    return value
