"""Arrow data in shared memory, as `get` returns it. Its structs are untrusted: each use checks copies."""

from __future__ import annotations

from typing import Any, NoReturn

from shmprotocol.errors import BadRegion
from shmprotocol.native.builtins import arrow_array, arrow_check, arrow_schema, arrow_stream

ONE = 1  # SHM_ARROW_ONE: it was put by __arrow_c_array__
_SHOWN = 5  # columns in a repr


class ArrowValue:
    """Arrow data in shared memory, read-only: pyarrow, polars, pandas and DuckDB take it without a copy.

    `pyarrow.table(value)`, `polars.DataFrame(value)` and others use its buffers where they are. The tables
    and frames keep the memory as long as they live, also after the client is closed.
    """

    __slots__ = ("__weakref__", "_checked", "_data")

    _data: memoryview
    _checked: tuple[int, int, int, str, tuple[str, ...]]  # of `arrow_check`

    def __init__(self) -> None:
        raise TypeError("Arrow data in shared memory has no constructor: use client.get()")

    def __len__(self) -> int:
        return self._checked[2]

    @property
    def batch_count(self) -> int:
        """The batches, each with its own buffers."""
        return self._checked[1]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns; none, unless it is a table."""
        return self._checked[4]

    @property
    def format(self) -> str:
        """The type, as the C data interface names it: `+s` is a table."""
        return self._checked[3]

    @property
    def nbytes(self) -> int:
        """The bytes that it takes in the region, structs and all."""
        return self._data.nbytes

    def __arrow_c_schema__(self) -> object:
        """Return a capsule with the schema."""
        return _exported(arrow_schema, self._data)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a capsule with a stream of the batches, in the schema that they have."""
        return _exported(arrow_stream, self._data)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "Arrow data in shared memory is not pickled: pass its name, and get() it in the other process; "
            "pyarrow.table(value) pickles as a copy"
        )

    def __repr__(self) -> str:
        names = ", ".join(self.column_names[:_SHOWN]) + (", ..." if len(self.column_names) > _SHOWN else "")
        content = f"columns {names}" if self.column_names else f"format {self.format!r}"
        batches = f"{self.batch_count} batch{'' if self.batch_count == 1 else 'es'}"
        return f"<{type(self).__name__} of {len(self)} rows in {batches}, {content}>"


class ArrowArrayValue(ArrowValue):
    """Arrow data in shared memory that was put as one array or batch, and can be taken as one."""

    __slots__ = ()

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """Return capsules with the schema and with the array."""
        return self.__arrow_c_schema__(), _exported(arrow_array, self._data, 0)


def make_value(data: memoryview, offset: int, size: int) -> ArrowValue:
    """Return the value in `size` bytes of the data; ValueError: its structs are corrupt."""
    content = data[offset : offset + size]
    checked = arrow_check(content)
    kind = ArrowArrayValue if checked[0] & ONE else ArrowValue
    value = kind.__new__(kind)
    value._data, value._checked = content, checked
    return value


def _exported(make: Any, data: memoryview, *index: int) -> Any:
    try:
        return make(data, *index)
    except ValueError as error:  # the owner of an arena has changed them since `get`
        raise BadRegion(f"{error}") from None
