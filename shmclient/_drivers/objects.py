"""Objects by pickle, for both clients: `put` of a pickled one, and `get` with permission to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmclient._codecs import loaded, pickled
from shmclient._drivers.operations import DEFAULT_MODE
from shmclient._drivers.transfer import Progress
from shmprotocol.wire.names import BackendName

if TYPE_CHECKING:
    from shmclient._drivers.async_handles import AsyncRegion
    from shmclient._drivers.handles import Region


class Objects:
    """The part of the sync client that stores and loads objects."""

    put: Any
    get: Any

    def put_object(
        self,
        name: str,
        obj: object,
        *,
        mode: int = DEFAULT_MODE,
        backend: BackendName = "memfd",
        replace: bool = True,
        progress: Progress | None = None,
    ) -> Region:
        """Store any object that can be pickled; the arrays in it lie in the region as they are.

        Arguments and errors as for `put`; PicklingError or TypeError: it cannot be pickled.
        """
        region: Region = self.put(
            name, pickled(obj), mode=mode, backend=backend, replace=replace, progress=progress
        )
        return region

    def get_object(
        self,
        name: str,
        *,
        allow_pickle: bool = False,
        after: int | None = None,
        wait: float | None = None,
        anywhere: bool = False,
    ) -> Any:
        """Return an object that was put: its arrays are read-only, lie in the region, and keep it mapped.

        **A pickle can run any code**: `allow_pickle` says that whoever may put this name is trusted;
        InvalidArgument without it. Other values come as by `get`, which itself returns pickled ones as
        PickledObjects.
        """
        return loaded(self.get(name, after=after, wait=wait, anywhere=anywhere), allow_pickle=allow_pickle)


class AsyncObjects:
    """The part of the async client that stores and loads objects."""

    put: Any
    get: Any

    async def put_object(
        self,
        name: str,
        obj: object,
        *,
        mode: int = DEFAULT_MODE,
        backend: BackendName = "memfd",
        replace: bool = True,
        progress: Progress | None = None,
    ) -> AsyncRegion:
        """Store any object that can be pickled, as `shmclient.Client.put_object`; it is pickled here."""
        region: AsyncRegion = await self.put(
            name, pickled(obj), mode=mode, backend=backend, replace=replace, progress=progress
        )
        return region

    async def get_object(
        self,
        name: str,
        *,
        allow_pickle: bool = False,
        after: int | None = None,
        wait: float | None = None,
        anywhere: bool = False,
    ) -> Any:
        """Return an object that was put, as `shmclient.Client.get_object`; it is loaded here."""
        value = await self.get(name, after=after, wait=wait, anywhere=anywhere)
        return loaded(value, allow_pickle=allow_pickle)
