"""The handle of a region of the async client."""

from __future__ import annotations

from typing import Any

from shmclient._drivers import operations
from shmclient._regions.region import RegionHandle
from shmprotocol.errors import HostGone, RegionClosed


class AsyncRegion(RegionHandle):
    """A published region, mapped read-only at its own address. A context manager that closes it."""

    async def is_current(self) -> bool:  # type: ignore[override]
        """Whether this generation is still the current one of its name, as in `Region.is_current`."""
        if self._client is not None:
            self._client._loop.check()
        answer: Any = super().is_current()
        return answer if type(answer) is bool else await answer

    async def _ask_current(self) -> bool:  # type: ignore[override]
        if self._client is None:
            raise RegionClosed(f"{self!r} has no client")
        core = self._client._core
        if self._follow(core.board_of(self._host_id)):
            return await self.is_current()
        try:
            return core.is_alone(self) or bool(await self._client._run(operations.is_current, self))
        except HostGone:
            if not self._was_current():
                raise
            core.note_absence()
            return True

    async def resize(self, size: int) -> int:
        """Have the region grow to `size` bytes of payload at least, as `Region.resize`."""
        if self._client is None:
            raise RegionClosed(f"{self!r} has no client")
        grown: int = await self._client._run(operations.resize, self, size)
        return grown

    def __reduce__(self) -> tuple[Any, ...]:
        from shmclient._drivers.references import reduce_region

        return reduce_region(self)

    async def __aenter__(self) -> AsyncRegion:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __enter__(self) -> AsyncRegion:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
