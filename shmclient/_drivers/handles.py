"""The handle of a region of the sync client."""

from __future__ import annotations

from typing import Any

from shmclient._drivers import operations
from shmclient._regions.region import RegionHandle
from shmprotocol.errors import HostGone, RegionClosed


class Region(RegionHandle):
    """A published region, mapped read-only at its own address. A context manager that closes it."""

    def _ask_current(self) -> bool:
        if self._client is None:
            raise RegionClosed(f"{self!r} has no client")
        core = self._client._core
        if self._follow(core.board_of(self._host_id)):
            return self.is_current()
        try:
            return bool(core.is_alone(self) or self._client._run(operations.is_current, self))
        except HostGone:
            if not self._was_current():
                raise
            core.note_absence()
            return True

    def resize(self, size: int) -> int:
        """Have the region grow to `size` bytes of payload at least; return those that it has then.

        It must have been created with a `max_size`, and be current and this user's. Old views and pointers
        stay as they are; new views, here and in other processes, go as far as the region does. A region never
        shrinks: a smaller size changes nothing. QuotaExceeded; InvalidArgument: over its `max_size`;
        RegionBusy: somebody else has it grow just now.
        """
        if self._client is None:
            raise RegionClosed(f"{self!r} has no client")
        grown: int = self._client._run(operations.resize, self, size)
        return grown

    def __reduce__(self) -> tuple[Any, ...]:
        from shmclient._drivers.references import reduce_region

        return reduce_region(self)

    def __enter__(self) -> Region:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
