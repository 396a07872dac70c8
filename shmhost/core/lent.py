"""Objects of which a service manager has a descriptor, so that it is not the one who frees them. Pure.

The last process to close an object frees its pages, which takes † 130 us a MiB (2026-11). The manager has one
thread for all services of the machine; a host has threads for that. So it keeps its own descriptor of an
object that nobody needs any more, until the manager has closed the other one: of a large one, and of an
arena, which may have grown.
"""

from __future__ import annotations

from collections.abc import Iterable

from shmhost.core.objects import Freeable, Memfd, MemoryObject, PosixShm

LARGE = 1 << 20  # bytes; below, keeping an object longer costs more than the manager's 0.1 ms


class Lent:
    """The objects, from when the manager is told of their entries until it has removed them."""

    def __init__(self) -> None:
        self._by_entry: dict[str, MemoryObject] = {}
        self._is_unused: dict[Freeable, bool] = {}
        self._recalled: list[MemoryObject] = []

    def lend(self, entry: str, memory_object: MemoryObject) -> None:
        """Take note that the manager has an object."""
        if memory_object.capacity >= LARGE or not isinstance(memory_object, Memfd | PosixShm):
            self._by_entry[entry] = memory_object
            self._is_unused[memory_object] = False

    def takes(self, memory_object: Freeable) -> bool:
        """Whether an object that nobody needs any more is kept here for now."""
        if memory_object not in self._is_unused:
            return False
        self._is_unused[memory_object] = True
        return True

    def recall(self, entry: str) -> None:
        """Take note that the manager was told to remove an entry."""
        memory_object = self._by_entry.pop(entry, None)
        if memory_object is not None:
            self._recalled.append(memory_object)

    def recalled(self) -> list[MemoryObject]:
        """Return the objects that were recalled since the last call."""
        recalled, self._recalled = self._recalled, []
        return recalled

    def end(self, objects: Iterable[MemoryObject]) -> list[MemoryObject]:
        """Take note that the manager has closed these; return those that are the caller's to free."""
        return [memory_object for memory_object in objects if self._is_unused.pop(memory_object, False)]

    def end_all(self) -> list[Freeable]:
        """Keep none any longer; return those that are the caller's to free."""
        self._by_entry.clear()
        self._recalled.clear()
        unused = [each for each, is_unused in self._is_unused.items() if is_unused]
        self._is_unused.clear()
        return unused
