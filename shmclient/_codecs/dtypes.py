"""The description of a dtype in metadata: a name, or a map of fields. Makes only dtypes.

A description is untrusted. NumPy's own parser of names is a small language with room for surprises (commas,
repeats, Python literals, objects), so a name must match one pattern, and structures are built field by field
from checked numbers. A dtype either survives the round trip unchanged, or `describe` refuses it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

DIMENSIONS_MAX = 64  # the limit of NumPy 2; NumPy 1 accepts 32 and raises above
DEPTH_MAX = 16  # nested structures; real ones have up to three levels
SIZE_MAX = 2**31 - 1  # bytes of an item: a C int in NumPy 1

_NAME = (  # `re` compiles it when it is first used, and keeps it
    r"\|b1|\|[iu]1|[<>][iu][248]|[<>]f(?:2|4|8|16)|[<>]c(?:8|16|32)"
    r"|\|[SV](?:0|[1-9][0-9]{0,9})|[<>]U(?:0|[1-9][0-9]{0,8})"
    r"|[<>][mM]8(?:\[(?:[1-9][0-9]{0,8})?(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
)
# The types of the package ml_dtypes, by their names there: NumPy calls them all void.
_ML_NAME = r"bfloat16|float[4-8]_e[0-9a-z]{2,12}|u?int[1-7]|b?complex32"


def describe(dtype: Any) -> str | dict[str, Any]:
    """Return the description of a dtype; TypeError if it would not survive the round trip."""
    if is_own(dtype):
        return str(dtype.str)  # 1 us instead of 4
    description = _describe(dtype, 0)
    try:
        is_same = _is_same(parse(description), dtype)
    except (ImportError, TypeError, ValueError):
        is_same = False
    if not is_same:
        raise TypeError(f"an array of dtype {dtype!r:.200} cannot be stored without loss")
    return description


def is_own(dtype: Any) -> bool:
    """Whether a dtype is the object that NumPy has for the numbers of its name."""
    return bool(dtype.isbuiltin == 1 and dtype.kind in "biufc" and _named(dtype.str) is dtype)


def parse(description: object, depth: int = 0) -> Any:
    """Return the dtype; ValueError or TypeError if this is not a description that `describe` returns.

    ImportError: the dtype is from the package ml_dtypes, which is missing.
    """
    if type(description) is str:
        return _named(description)
    if not isinstance(description, Mapping) or depth > DEPTH_MAX:
        raise ValueError(f"a dtype is a name or a map of fields, not {description!r:.40}")
    return _structure(description, depth)


def check_shape(shape: object) -> tuple[int, ...]:
    """Return a shape as a tuple; ValueError unless it is a list of at most 64 lengths."""
    if type(shape) is not list or len(shape) > DIMENSIONS_MAX:
        raise ValueError(f"a shape is a list of at most {DIMENSIONS_MAX} lengths, not {shape!r:.80}")
    for length in shape:
        if type(length) is not int or length < 0:
            raise ValueError(f"a shape holds lengths, not {length!r:.40}")
    return tuple(shape)


@functools.lru_cache(maxsize=256)  # a lookup takes 0.1 us, NumPy's parser and the pattern 2; bounded
def _named(name: str) -> Any:
    import numpy as np

    if re.fullmatch(_NAME, name):
        if name[1] in "SUV":  # NumPy 1 lets these overflow: |V2147483648 has -2147483648 bytes
            _length(int(name[2:]), SIZE_MAX // 4 if name[1] == "U" else SIZE_MAX)
        return np.dtype(name)
    if not re.fullmatch(_ML_NAME, name):
        raise ValueError(f"{name!r:.40} is not the name of a dtype")
    return _of_ml_dtypes(name)


def _of_ml_dtypes(name: str) -> Any:
    import numpy as np

    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            f"the array's dtype is {name}: pip install ml_dtypes, or open() the region for its bytes"
        ) from None
    scalar = getattr(ml_dtypes, name, None)
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        raise ValueError(f"ml_dtypes {ml_dtypes.__version__} has no dtype {name!r}: install a later one")
    return np.dtype(scalar)


def _structure(description: Mapping[str, Any], depth: int) -> Any:
    import numpy as np

    size = _length(description["itemsize"], SIZE_MAX)
    fields = [_field(field, size, depth) for field in description["fields"]]
    names, formats, offsets, titles = zip(*fields, strict=True) if fields else ((), (), (), ())
    columns = {"names": list(names), "formats": list(formats), "offsets": list(offsets), "itemsize": size}
    if any(title is not None for title in titles):
        columns["titles"] = list(titles)
    dtype: Any = np.dtype(columns, align=_flag(description, "align"))  # type: ignore[call-overload]
    if dtype.alignment < 1:  # NumPy 1 divides by this size when the structure is a field
        raise ValueError("NumPy 1 cannot align a structure without fields")
    return np.dtype((np.record, dtype)) if _flag(description, "record") else dtype


def _field(field: Mapping[str, Any], end: int, depth: int) -> tuple[str, Any, int, str | None]:
    """Return name, dtype, offset and title of a field that ends inside its structure of `end` bytes."""
    import numpy as np

    name, title = field["name"], field.get("title")
    if type(name) is not str or not (title is None or type(title) is str):
        raise ValueError(f"the name and the title of a field are str, not {name!r:.40} and {title!r:.40}")
    dtype = parse(field["dtype"], depth + 1)
    if "shape" in field:
        dtype = np.dtype((dtype, check_shape(field["shape"])))
    offset = _length(field["offset"], end)
    if offset + dtype.itemsize > end:
        raise ValueError(f"field {name!r:.40} ends beyond the {end} bytes of its structure")
    return name, dtype, offset, title


def _length(value: object, limit: int) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ValueError(f"{value!r:.40} is not a number from 0 to {limit}")
    return value


def _flag(description: Mapping[str, Any], name: str) -> bool:
    value = description.get(name, False)
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, not {value!r:.40}")
    return value


def _describe(dtype: Any, depth: int) -> str | dict[str, Any]:
    if dtype.kind == "T":
        raise TypeError(
            f"{dtype} keeps its text outside of the array: array.astype('U') has it inside, and put_object() "
            "pickles it"
        )
    if dtype.hasobject:
        raise TypeError(
            f"dtype {dtype} holds pointers to Python objects of this process: convert the array to numbers "
            "or fixed-width text, such as array.astype('U'), or pickle it with put_object()"
        )
    if dtype.metadata:
        raise TypeError(
            f"dtype {dtype} has metadata, {dict(dtype.metadata)!r:.80}, which would be lost: "
            "array.view() with a dtype without it"
        )
    if dtype.names is None:
        is_of_ml_dtypes = dtype.type.__module__.partition(".")[0] == "ml_dtypes"
        return str(dtype.type.__name__ if is_of_ml_dtypes else dtype.str)
    if depth >= DEPTH_MAX:
        raise TypeError(f"the dtype nests more than {DEPTH_MAX} structures")
    return _describe_structure(dtype, depth)


def _describe_structure(dtype: Any, depth: int) -> dict[str, Any]:
    import numpy as np

    fields = [_describe_field(name, *dtype.fields[name], depth=depth) for name in dtype.names]
    description: dict[str, Any] = {"itemsize": dtype.itemsize, "fields": fields}
    if dtype.isalignedstruct:
        description["align"] = True
    if issubclass(dtype.type, np.record):
        description["record"] = True
    return description


def _describe_field(
    name: str, dtype: Any, offset: int, title: object = None, *, depth: int
) -> dict[str, Any]:
    field: dict[str, Any] = {"name": name, "dtype": _describe(dtype.base, depth + 1), "offset": offset}
    if dtype.shape:
        field["shape"] = list(dtype.shape)
    if title is not None:
        field["title"] = title
    return field


def _is_same(dtype: Any, other: Any) -> bool:
    """Whether two dtypes are equal, including details that `==` ignores: flags, metadata, records."""
    if dtype != other or (dtype.kind == "V" and dtype.type is not other.type):
        return False
    if dtype.isalignedstruct != other.isalignedstruct or other.metadata:
        return False
    if dtype.subdtype is not None:
        return _is_same(dtype.base, other.base)
    return all(_is_same(dtype[name], other[name]) for name in dtype.names or ())
