"""The constants and the functions of the standard library in `shmclient.posix`, as reStructuredText."""

from __future__ import annotations

from collections.abc import Iterator

from shmclient import posix
from shmclient.posix import constants


def restructured() -> Iterator[str]:
    """Yield an entry for each of them, line by line."""
    for name in sorted(constants.__all__):
        value = getattr(constants, name)
        yield from (f".. py:data:: {name}", f"   :value: {shown(value)}", "")


def borrowed() -> list[str]:
    """Return the names of functions that are those of the standard library."""
    functions = (name for name in posix.__all__ if callable(getattr(posix, name)))
    return [name for name in functions if not str(getattr(posix, name).__module__).startswith("shm")]


def shown(value: object) -> str:
    """Return a constant as people look for it: flags in base 16."""
    return (
        f"{value:#x}" if isinstance(value, int) and not isinstance(value, bool) and value > 9 else repr(value)
    )


def borrowed_restructured() -> Iterator[str]:
    """Yield an entry for each function of the standard library."""
    for name in borrowed():
        function = getattr(posix, name)
        module = {"posix": "os", "_stat": "stat"}.get(function.__module__, function.__module__)
        yield from (f".. py:function:: {name}(...)", "", f"   ``{module}.{function.__name__}``.", "")
