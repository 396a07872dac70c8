"""Values with the arrays of other libraries in place of NumPy's, over the same memory. Maps none.

A library is imported when its arrays are asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args

from shmclient._codecs.region_dict import RegionDict
from shmprotocol.errors import InvalidArgument

LibraryName = Literal["numpy", "torch", "jax"]
WRITES = frozenset(("torch",))  # libraries whose arrays can always be written
_TORCH_SMALL = frozenset(
    [
        "bfloat16",
        "complex32",
        *(f"float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")),
    ]
)


def check_library(name: object) -> None:
    """Raise InvalidArgument unless this is the name of a library."""
    if name not in get_args(LibraryName):
        raise InvalidArgument(f"as_ is {', '.join(map(repr, get_args(LibraryName)))}, not {name!r:.40}")


def taken_by(library: LibraryName, value: Any) -> Any:
    """Return a value with a library's arrays in place of NumPy's, also in dicts, lists and tuples.

    ImportError: it is not installed. TypeError: it has no arrays of that dtype.
    """
    if library == "numpy":
        return value
    make: Callable[[Any], Any] = _MAKERS[library]
    numpy = sys.modules.get("numpy")
    return _walk(value, () if numpy is None else numpy.ndarray, make)  # without NumPy there are no arrays


def _walk(value: Any, array: type | tuple[()], make: Callable[[Any], Any]) -> Any:
    if isinstance(value, array):
        return make(value)
    if isinstance(value, dict | RegionDict):
        return {key: _walk(item, array, make) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_walk(item, array, make) for item in value)
    return value.toreadonly() if type(value) is memoryview else value


def _torch(array: Any) -> Any:
    torch = _imported("torch")
    if array.dtype.type.__module__.partition(".")[0] == "ml_dtypes":
        name = array.dtype.name
        kind = getattr(torch, name, None) if name in _TORCH_SMALL else None
        if kind is None:
            raise _no_such("torch", array, f"version {torch.__version__} has none")
        return torch.from_numpy(array.view(f"i{array.itemsize}")).view(kind)
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise _no_such("torch", array, error) from None


def _jax(array: Any) -> Any:
    jax = _imported("jax")
    try:
        return jax.device_put(
            array
        )  # which uses aligned memory of the CPU as it is; jax.numpy.asarray copies
    except (TypeError, ValueError) as error:
        raise _no_such("jax", array, error) from None


_MAKERS = {"torch": _torch, "jax": _jax}


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"as_={name!r} takes {name}: pip install {name}") from None


def _no_such(library: str, array: Any, cause: object) -> TypeError:
    return TypeError(
        f"{library} has no arrays of dtype {array.dtype} ({cause}): get() without as_ gives NumPy's, and a "
        "view of those has another"
    )
