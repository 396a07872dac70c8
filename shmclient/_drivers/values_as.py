"""The values of a followed name with the arrays of a library. Does no I/O: yields steps."""

from __future__ import annotations

from typing import Any

from shmclient._arenas.resting import Position
from shmclient._arenas.values import value_as
from shmclient._codecs.libraries import WRITES, LibraryName, check_library, taken_by
from shmclient._connection.retry import Retry
from shmclient._drivers import operations
from shmclient._drivers.steps import Context, Operation
from shmclient._drivers.values import Values
from shmclient._regions.region import RegionHandle
from shmprotocol.errors import RegionNotFound
from shmprotocol.native.builtins import HeldValue


class ValuesAs(Values):
    """The value of one name, and each newer one, as `get` with `as_` returns it; see `Values`.

    A region is opened once more for arrays that can always be written: its pages are mapped by a descriptor.
    """

    def __init__(self, name: str, library: LibraryName, *, anywhere: bool, can_sleep: bool) -> None:
        check_library(library)
        super().__init__(name, anywhere=anywhere, can_sleep=can_sleep)
        self._library: LibraryName = library

    def place(self, context: Context) -> None:
        """Return None: the short road has no other arrays than NumPy's."""

    def next(self, context: Context, retry: Retry) -> Operation[Any]:
        """Return the current value, once it is another than the last one."""
        before = self._last
        try:
            while True:
                value = yield from super().next(context, retry)
                if converted := (yield from self._converted(context, value)):
                    return converted[0]
        except BaseException:  # also when the host is gone, or the task cancelled: it was not given
            self._last = before
            raise

    def _take(self, position: Position, held: HeldValue) -> Any:
        position.take_note(held)
        return value_as(position.reader, held, self._library)

    def _converted(self, context: Context, value: Any) -> Operation[tuple[Any] | None]:
        """Return the last value with the library's arrays; None: it is not what the name stands for now."""
        last = self._last
        if self._library not in WRITES:
            return (taken_by(self._library, value),)
        if isinstance(last, Position):
            held = last.reader._hold(last.name)
            return None if held is None else (self._take(last, held),)
        assert last is not None  # it was just given
        try:
            handles = yield from operations.open_many(
                context, RegionHandle, (self._name,), operations.at_once, self._anywhere
            )
        except RegionNotFound:
            return None
        handle = handles[0]
        try:  # of a value in an arena, the handle is another one
            is_last = isinstance(handle, RegionHandle) and handle.number == last.grant.region
            return (handle.value(as_=self._library),) if is_last else None
        finally:
            handle.close()
