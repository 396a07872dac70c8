"""`save` and `load`, for both clients. The operations are imported when they are used."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shmclient._drivers.handles import Region
from shmclient._drivers.transfer import Progress

if TYPE_CHECKING:
    from shmclient._drivers.async_handles import AsyncRegion

Path = str | os.PathLike[str]


class Snapshots:
    """The part of the sync client that saves and loads regions."""

    _run: Any
    _adopt: Any

    def save(self, name: str, path: Path, *, mode: int = 0o600, progress: Progress | None = None) -> int:
        """Write the current region of a name to a file, and return the bytes of that.

        `load` maps it back at the same address. The path has the file whole or is as before: it is written
        beside its place, its bytes are on the disk before it is renamed, and its permission bits are `mode`.
        Content, root, metadata, mode, seal and backend are in it. Of a region that others
        write, such as with seal="shared", it is what was read. `progress` gets the bytes that are done.

        Unsupported: an arena, or a value in one. InvalidArgument: a link, or a folder, is there.
        """
        from shmclient._drivers import snapshots

        size: int = self._run(snapshots.save, name, path, mode, progress)
        return size

    def load(
        self,
        path: Path,
        *,
        name: str | None = None,
        replace: bool = True,
        anywhere: bool = False,
        progress: Progress | None = None,
    ) -> Region:
        """Make a region of a file that `save` wrote, at the address that it had: its pointers are valid.

        It has the name that it had, or another one, and belongs to this user. If the current region of that
        name has this address and content, it is returned. The hash of the whole file is checked, and nothing
        is published before.

        AddressConflict: something has the address; the text says who. With `anywhere`, a region without a
        root, and so without pointers, gets another address then. InvalidArgument: the host has other windows.
        BadRegion: the file is not a snapshot, is damaged, or changes while it is read.
        """
        from shmclient._drivers import snapshots

        loaded = self._run(snapshots.load, Region, path, name, replace, anywhere, progress)
        region: Region = self._adopt(loaded)
        return region


class AsyncSnapshots:
    """The part of the async client that saves and loads regions, in a thread."""

    _run: Any
    _adopt: Any

    async def save(
        self, name: str, path: Path, *, mode: int = 0o600, progress: Progress | None = None
    ) -> int:
        """Write the current region of a name to a file, as `shmclient.Client.save`."""
        from shmclient._drivers import snapshots

        size: int = await self._run(snapshots.save, name, path, mode, progress)
        return size

    async def load(
        self,
        path: Path,
        *,
        name: str | None = None,
        replace: bool = True,
        anywhere: bool = False,
        progress: Progress | None = None,
    ) -> AsyncRegion:
        """Make a region of a file, at the address that it had, as `shmclient.Client.load`."""
        from shmclient._drivers import snapshots
        from shmclient._drivers.async_handles import AsyncRegion

        loaded = await self._run(snapshots.load, AsyncRegion, path, name, replace, anywhere, progress)
        region: AsyncRegion = self._adopt(loaded)
        return region
