"""A drop-in for `multiprocessing.shared_memory`, over regions that several write: change the import, no more.

Segments are memfds of a host. Nothing limits them but memory: not the 64 MiB of a container's /dev/shm. What
does not fit is an error at the creation, and not SIGBUS later. No resource tracker watches them: the host
sees processes end. See `docs/shared_memory.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shmclient._shared.segments import ShareableList, SharedMemory

if TYPE_CHECKING:
    from shmclient._shared.manager import SharedMemoryManager

__all__ = ["ShareableList", "SharedMemory", "SharedMemoryManager"]


def __getattr__(name: str) -> Any:
    if name == "SharedMemoryManager":  # with its servers, sockets and threads: only for who uses it
        from shmclient._shared.manager import SharedMemoryManager

        return SharedMemoryManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
