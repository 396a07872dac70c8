"""Objects by pickle: the stream, and its buffers beside it, which stay where they are when it is loaded.

A value of this kind is a block: the buffers, the stream, and a table at the end that says where they are,
from the start of the block. The table is checked when the block is read. Only `load` ever unpickles, and only
if its caller says that it may: a pickle is a program.
"""

from __future__ import annotations

import copyreg
import io
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from shmclient._codecs.layout import Layout, Maker, next_offset
from shmclient._process.copying import not_copied
from shmprotocol.errors import BadRegion, InvalidArgument

if TYPE_CHECKING:
    import pickle

FORMAT = "pickle"
PROTOCOL = 5  # the first with buffers outside of the stream
_PLACE = struct.Struct("<QQ")  # offset and size of a buffer
_TAIL = struct.Struct("<QQQ")  # the number of buffers; offset and size of the stream


class PickledObject:
    """A pickled object, as `put` takes it and `get` returns it: `load` makes the object.

    Its arrays lie in the region and are read-only; they keep it mapped.
    """

    __slots__ = ("_buffers", "_stream")

    def __init__(self) -> None:
        raise TypeError("a PickledObject is made by shmclient.pickled(obj), or by get() of what was put")

    _stream: memoryview
    _buffers: Sequence[memoryview]

    def load(self, *, allow_pickle: bool = False) -> Any:
        """Return the object. **Whoever has put it can run any code here**: `allow_pickle` says that it may.

        InvalidArgument without that. BadRegion: it is not a pickle. Whatever its classes raise.
        """
        if not allow_pickle:
            raise InvalidArgument(
                "the value is a pickle, and loading it runs what its publisher has chosen: if you trust who "
                "may put this name, pass allow_pickle=True; put() takes arrays, text, numbers, lists and "
                "dicts without a pickle"
            )
        import pickle  # takes a millisecond of the start of each program

        try:
            return pickle.loads(self._stream, buffers=self._buffers)
        except (pickle.UnpicklingError, EOFError) as error:
            raise BadRegion(f"the value is not a pickle that can be loaded: {error}") from error

    @property
    def nbytes(self) -> int:
        """The bytes of the stream and of all buffers."""
        return len(self._stream) + sum(map(len, self._buffers))

    def __reduce__(self) -> NoReturn:
        raise not_copied(self, "load() it, and pickle the object")

    def __repr__(self) -> str:
        return f"<PickledObject of {self.nbytes} bytes, {len(self._buffers)} buffers: load() it>"


def pickled(obj: object) -> PickledObject:
    """Pickle an object for `put`, without a copy of the arrays in it: do not change them before.

    PicklingError, TypeError: it, or something in it, cannot be pickled.
    """
    import pickle

    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    pickler = pickle.Pickler(file, PROTOCOL, buffer_callback=buffers.append)
    if (numpy := sys.modules.get("numpy")) is not None:
        table: dict[type, Any] = {numpy.ndarray: _reduce_array}
        table |= copyreg.dispatch_table
        pickler.dispatch_table = table
    pickler.dump(obj)
    return _made(file.getbuffer(), [buffer.raw().toreadonly() for buffer in buffers])


def loaded(value: Any, *, allow_pickle: bool) -> Any:
    """Return what a value is: the object of a pickled one, any other as it is. Errors as `load`."""
    return value.load(allow_pickle=allow_pickle) if type(value) is PickledObject else value


def can_encode(obj: object) -> bool:
    """Whether it has been pickled."""
    return type(obj) is PickledObject


def encode(obj: PickledObject, layout: Layout) -> dict[str, Any]:
    """Add the block; return its description."""
    start = next_offset(layout)
    places = [(layout.append(buffer, len(buffer)) - start, len(buffer)) for buffer in obj._buffers]
    stream = layout.append(obj._stream, len(obj._stream)) - start
    table = b"".join(_PLACE.pack(*where) for where in places)
    tail = table + _TAIL.pack(len(places), stream, len(obj._stream))
    layout.append(tail, len(tail))
    return {"format": FORMAT, "offset": start, "size": layout.size - start}


def plan(item: Mapping[str, Any]) -> Maker:
    """Return what makes pickled objects over their blocks."""
    return _read


def _read(data: memoryview, offset: int, size: int) -> PickledObject:
    """Return the object in a block; ValueError unless all of it lies inside."""
    block = data[offset : offset + size].toreadonly()
    if size < _TAIL.size:
        raise ValueError(f"a pickled object has a table, and not {size} bytes")
    count, *stream = _TAIL.unpack(block[-_TAIL.size :])
    if count > (size - _TAIL.size) // _PLACE.size:
        raise ValueError(f"the places of {count} buffers are not in {size} bytes")
    table = block[size - _TAIL.size - count * _PLACE.size : size - _TAIL.size]
    buffers = [_inside(block, *where) for where in _PLACE.iter_unpack(table)]
    return _made(_inside(block, *stream), buffers)


def _inside(block: memoryview, offset: int, size: int) -> memoryview:
    if offset + size > len(block):
        raise ValueError(f"{size} bytes at {offset} are not inside of {len(block)}")
    return block[offset : offset + size]


def _made(stream: memoryview, buffers: Sequence[memoryview]) -> PickledObject:
    value = PickledObject.__new__(PickledObject)
    value._stream, value._buffers = stream, buffers
    return value


def _reduce_array(array: Any) -> Any:
    """Reduce an array: NumPy alone would copy one with gaps into the stream, and out of it."""
    flags = array.flags
    if not (flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject):
        array = array.copy()
    return array.__reduce_ex__(PROTOCOL)
