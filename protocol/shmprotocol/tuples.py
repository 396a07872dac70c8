"""typing's NamedTuple, with classes that are made in a fifth of its time. Knows no message.

† typing compiles a constructor for each class: for the 82 of the client, a sixth of its import (2026-11).
Here those of one length share the code, under the names of their fields.
"""

from __future__ import annotations

from collections import _tuplegetter  # type: ignore[attr-defined]
from functools import cache
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

__all__ = ["NamedTuple"]

_new = tuple.__new__


@cache
def _code(length: int) -> CodeType:
    """Return the code of a constructor of so many items."""
    items = "".join([f"_{index}, " for index in range(length)])
    constructor: FunctionType = eval(f"lambda _cls, {items}: _new(_cls, ({items}))")
    return constructor.__code__


def _constructor(kind: Any) -> FunctionType:
    code = _code(len(kind._fields)).replace(
        co_varnames=("_cls", *kind._fields), co_name="__new__", co_qualname=f"{kind.__qualname__}.__new__"
    )
    constructor = FunctionType(code, globals(), "__new__", tuple(kind._field_defaults.values()))
    constructor.__annotations__ = kind.__annotations__
    return constructor


def _name_items(kind: Any, fields: tuple[str, ...]) -> None:
    kind._fields = kind.__match_args__ = fields  # type: ignore[misc]
    own = vars(kind)  # not `hasattr`: a field may be a `count`, which every tuple has
    kind._field_defaults = {field: own[field] for field in fields if field in own}
    kind.__new__ = _constructor(kind)
    for index, field in enumerate(fields):
        setattr(kind, field, _tuplegetter(index, f"Alias for field number {index}"))


if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Named(tuple):
        __slots__ = ()

        @classmethod
        def _make(cls, items):
            result = _new(cls, items)
            if len(result) != len(cls._fields):
                raise TypeError(f"{cls.__name__} has {len(cls._fields)} fields, not {len(result)}")
            return result

        def _replace(self, /, **changes):
            result = self._make(map(changes.pop, self._fields, self))
            if changes:
                raise ValueError(f"{type(self).__name__} has no fields {list(changes)}")
            return result

        __replace__ = _replace  # for copy.replace of Python 3.13

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            items = zip(self._fields, self, strict=True)
            return f"{type(self).__name__}({', '.join([f'{field}={item!r}' for field, item in items])})"

        def __getnewargs__(self):
            return tuple(self)

    class _Maker(type):
        def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            # Its type is `type`: of any other isinstance() asks that each time, and takes twice as long.
            kind = type(name, (_Named, *bases[1:]), {**namespace, "__slots__": ()})
            _name_items(kind, tuple(kind.__annotations__))
            return kind

    class NamedTuple(metaclass=_Maker):
        """A tuple whose items are the annotations of its class, with their values as defaults."""
