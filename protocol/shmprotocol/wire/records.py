"""Arrays that represent named tuples: checked against the annotations, all fields at once. Pure.

Knows no message: the meaning of the fields is in `messages`.
"""

from __future__ import annotations

import operator
import types
import typing
from collections.abc import Callable
from typing import Any

from shmprotocol.wire.names import MAX_ARRAY

U64_MAX = 2**64 - 1

Check = Callable[[Any], Any]


def shown(value: object) -> str:
    """Return a short form, for errors, of a value that may be huge, or nested too deeply for repr()."""
    if isinstance(value, str | bytes):
        return repr(value[:40])
    if isinstance(value, int) and abs(value) >= 2**128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, tuple):
        return f"an array of {len(value)}"
    return repr(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"


class Record:
    """The check of one kind of array: a named tuple's fields, their types, and no number out of range.

    All fields are compared at once, in C; only after a failure are they checked one by one, for the message.
    """

    def __init__(self, cls: Any) -> None:
        hints = typing.get_type_hints(cls)
        self.name: str = cls.__name__
        self.fields: tuple[str, ...] = cls._fields
        self._make = cls._make
        # As they would come in: a record is an array there.
        self._defaults: tuple[Any, ...] = tuple(
            tuple(default) if isinstance(default, tuple) else default
            for default in cls._field_defaults.values()
        )
        kinds = [hints[name] for name in self.fields]
        self._types = tuple([_type_of(hint) for hint in kinds])
        self._integers = _picker([i for i, hint in enumerate(kinds) if hint is int])
        checks = [(i, _check_for(hint)) for i, hint in enumerate(kinds)]
        self._nested = [(i, check) for i, check in checks if check is not None]

    def __call__(self, value: Any) -> Any:
        """Return the named tuple for an array; fields after the known ones are ignored.

        Fields with a default were appended: an earlier version sends none.
        """
        types_of, count = self._types, len(self._types)
        if len(value) != count:
            missing = count - len(value)
            if missing > len(self._defaults):
                raise TypeError(f"{self.name} has {count} fields, not {len(value)}")
            value = value[:count] if missing < 0 else value + self._defaults[-missing:]
        integers = self._integers(value)
        if tuple(map(type, value)) != types_of or min(integers) < 0 or max(integers) > U64_MAX:
            raise TypeError(self._wrong(value))
        if self._nested:
            value = list(value)
            for index, check in self._nested:
                value[index] = check(value[index])
        return self._make(value)

    def _wrong(self, value: Any) -> str:
        for name, kind, item in zip(self.fields, self._types, value, strict=True):
            if kind is int and (type(item) is not int or not _in_range((item,))):
                return f"{name}: {shown(item)} is not an integer from 0 to 2**64 - 1"
            if type(item) is not kind:
                return f"{name}: {shown(item)} is not a {kind.__name__}"
        raise AssertionError("every field is right")


def _in_range(numbers: tuple[int, ...]) -> bool:
    return min(numbers) >= 0 and max(numbers) <= U64_MAX


def _picker(indexes: list[int]) -> Callable[[Any], tuple[int, ...]]:
    """Return a function that picks these items of a tuple, always as a tuple, and never none."""
    if len(indexes) > 1:
        return operator.itemgetter(*indexes)
    return (lambda value: value[indexes[0] : indexes[0] + 1]) if indexes else (lambda _value: (0,))


def _type_of(hint: Any) -> type:
    """Return the exact type that an unpacked value of this annotation has."""
    if not isinstance(hint, type) or hasattr(hint, "_fields"):
        return tuple
    return hint


def _check_for(hint: Any) -> Check | None:
    """Return the check for a field that is an array, None if the type of the field is enough."""
    if hasattr(hint, "_fields"):
        return Record(hint)
    if not isinstance(hint, types.GenericAlias):
        return None
    arguments = hint.__args__
    return _sequence(arguments[0]) if arguments[-1] is Ellipsis else _integers(len(arguments))


def _sequence(item: Any) -> Check:
    check, kind = _check_for(item), _type_of(item)
    kinds = {kind}

    def check_sequence(value: Any) -> object:
        if len(value) > MAX_ARRAY:
            raise TypeError(f"{len(value)} items are over the {MAX_ARRAY} of an array")
        if value and set(map(type, value)) != kinds:
            raise TypeError(f"{shown(value)} has items that are not a {kind.__name__}")
        if item is int and value and not _in_range(value):
            raise TypeError(f"{shown(value)} has items that are not integers from 0 to 2**64 - 1")
        return value if check is None else tuple([check(element) for element in value])

    return check_sequence


def _integers(count: int) -> Check:
    expected = (int,) * count

    def check_integers(value: Any) -> object:
        numbers = value[:count]
        if tuple(map(type, numbers)) != expected or not _in_range(numbers):
            raise TypeError(f"{shown(value)} is not {count} integers from 0 to 2**64 - 1")
        return numbers

    return check_integers
