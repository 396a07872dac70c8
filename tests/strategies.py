"""What hypothesis draws for the wire: any message as its annotations declare it, and any value at all."""

from __future__ import annotations

import types
import typing
from typing import Any

import msgpack
from hypothesis import strategies as st

from shmprotocol.wire.records import U64_MAX

ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**34 - 1), st.integers(0, 10**9 - 1)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc") | st.integers(0, 9), inner, max_size=3),
    max_leaves=20,
)


def strategy_for(hint: Any) -> st.SearchStrategy[Any]:
    """Any value of a field's type, as its annotation declares it."""
    if hint is int:
        return st.integers(0, U64_MAX)
    if hint is bytes:
        return st.binary(max_size=100)
    if hint is bool:
        return st.booleans()
    if hint is str:
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    if hasattr(hint, "_fields"):
        return record(typing.cast("type", hint))
    assert isinstance(hint, types.GenericAlias), hint
    arguments = hint.__args__
    if arguments[-1] is Ellipsis:
        return st.lists(strategy_for(arguments[0]), max_size=5).map(tuple)
    return st.tuples(*[strategy_for(argument) for argument in arguments])


def record(cls: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    return st.builds(cls, *[strategy_for(hints[name]) for name in cls._fields])
