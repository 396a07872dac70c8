"""Requests about names, without a value, for both clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmclient._drivers import operations

if TYPE_CHECKING:
    from shmclient._regions.info import RegionInfo


class Names:
    """The part of the sync client that asks about names, and changes them."""

    _run: Any

    def list(self, prefix: str = "") -> list[RegionInfo]:
        """Return all current regions whose name starts with the prefix, sorted by name."""
        infos: list[RegionInfo] = self._run(operations.list_regions, prefix)
        return infos

    def exists(self, name: str) -> bool:
        """Whether a name has a current region, or a value in an arena, as `name in client` says too."""
        return bool(self._run(operations.exists, name))

    __contains__ = exists

    def stat(self, name: str) -> RegionInfo:
        """Return the host's data about a current region."""
        info: RegionInfo = self._run(operations.stat, name)
        return info

    def unlink(self, name: str) -> None:
        """Hide a name at once; its memory is freed with the last lease."""
        self._run(operations.unlink, name)

    def chmod(self, name: str, mode: int) -> None:
        """Set which users may open (read) and replace or unlink (write) a region; only its owner may."""
        self._run(operations.chmod, name, mode)


class AsyncNames:
    """The part of the async client that asks about names, and changes them."""

    _run: Any

    async def list(self, prefix: str = "") -> list[RegionInfo]:
        """Return all current regions whose name starts with the prefix, sorted by name."""
        infos: list[RegionInfo] = await self._run(operations.list_regions, prefix)
        return infos

    async def exists(self, name: str) -> bool:
        """Whether a name has a current region, or a value in an arena."""
        return bool(await self._run(operations.exists, name))

    async def stat(self, name: str) -> RegionInfo:
        """Return the host's data about a current region."""
        info: RegionInfo = await self._run(operations.stat, name)
        return info

    async def unlink(self, name: str) -> None:
        """Hide a name at once; its memory is freed with the last lease."""
        await self._run(operations.unlink, name)

    async def chmod(self, name: str, mode: int) -> None:
        """Set which users may open (read) and replace or unlink (write) a region; only its owner may."""
        await self._run(operations.chmod, name, mode)
