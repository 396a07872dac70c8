"""The manager of `shmclient.shared_memory`: a process that unlinks the segments made by it when it ends."""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing import managers
from typing import Any, TypeVar

from shmclient._shared import segments

T = TypeVar("T", int, float, bool, str, bytes, None)
_originals: Any = managers  # typeshed does not have all of its names


class _Tracker(_originals._SharedMemoryTracker):  # type: ignore[misc]
    """The names of a manager's segments."""

    def destroy_segment(self, segment_name: str) -> None:
        """Unlink a segment."""
        self.segment_names.remove(segment_name)
        segment = segments.SharedMemory(segment_name)
        segment.close()
        segment.unlink()


class SharedMemoryServer(managers.SharedMemoryServer):
    """The part of a manager that runs in its process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        server: Any = self
        server.shared_memory_context = _Tracker(server.shared_memory_context.shared_memory_context_name, [])


class SharedMemoryManager(managers.SharedMemoryManager):
    """A manager of segments, as `multiprocessing.managers.SharedMemoryManager`, without a resource tracker.

    All segments made by it are unlinked when its `with` block ends, or by `shutdown`.
    """

    _Server = SharedMemoryServer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        managers.BaseManager.__init__(self, *args, **kwargs)  # the original starts a tracker here

    def SharedMemory(self, size: int) -> segments.SharedMemory:  # type: ignore[override]  # noqa: N802
        """Make a segment of a size in bytes, which lives as long as the manager."""
        segment = segments.SharedMemory(None, create=True, size=size)
        self._track(segment)
        return segment

    def ShareableList(self, sequence: Iterable[T] | None) -> segments.ShareableList[T]:  # noqa: N802
        """Make a list of some items, which lives as long as the manager."""
        items = segments.ShareableList(sequence)
        self._track(items.shm)
        return items

    def _track(self, segment: segments.SharedMemory) -> None:
        manager: Any = self
        try:
            with manager._Client(manager._address, authkey=manager._authkey) as connection:
                _originals.dispatch(connection, None, "track_segment", (segment.name,))
        except BaseException:
            segment.unlink()
            raise
