"""`posix_ipc`: shm_open and mmap, semaphores."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from typing import Any

from benchmarks.peers.base import Peer, Session, Site, Unsupported


class Posix(Session):
    def __init__(self, site: Site) -> None:
        import posix_ipc

        self._ipc = posix_ipc
        self._prefix = "/" + site.prefix
        self._held: dict[str, mmap.mmap] = {}
        self._names: set[str] = set()
        self._bell: Any = None

    def put(self, name: str, data: bytes) -> str:
        key = self._prefix + name.replace("/", ".")
        memory = self._ipc.SharedMemory(key, self._ipc.O_CREX, size=len(data))
        offset = 0
        while offset < len(data):  # cheaper than a fresh mapping: no page faults
            offset += os.pwrite(memory.fd, memoryview(data)[offset:], offset)
        memory.close_fd()
        self._names.add(name)
        return key

    def replace(self, name: str, data: bytes) -> str:
        self.remove(name)
        return self.put(name, data)

    def remove(self, name: str) -> None:
        self._names.discard(name)
        with contextlib.suppress(self._ipc.ExistentialError):
            self._ipc.unlink_shared_memory(self._prefix + name.replace("/", "."))

    def _map(self, key: str) -> mmap.mmap:
        memory = self._ipc.SharedMemory(key)
        mapped = mmap.mmap(memory.fd, 0, prot=mmap.PROT_READ)
        memory.close_fd()
        return mapped

    def attach(self, key: str) -> int:
        mapped = self._map(key)
        first = mapped[0]
        mapped.close()
        return first

    def hold(self, key: str) -> memoryview:
        self._held[key] = self._map(key)
        return memoryview(self._held[key])

    def again(self, key: str) -> object:
        return memoryview(self._held[key])

    def _semaphore(self) -> Any:
        if self._bell is None:
            self._bell = self._ipc.Semaphore(self._prefix + "bell", self._ipc.O_CREAT)
        return self._bell

    def announce(self, name: str, data: bytes) -> None:
        self.replace(name, data)
        self._semaphore().release()

    def watch(self, name: str) -> Iterator[Any]:
        bell, key = self._semaphore(), self._prefix + name.replace("/", ".")
        with contextlib.suppress(self._ipc.BusyError):
            while True:  # of earlier values
                bell.acquire(0)
        while True:
            bell.acquire()
            yield memoryview(self._map(key))

    def watch_loop(self, name: str) -> Any:
        raise Unsupported("a semaphore has no file descriptor")

    def close(self) -> None:
        self._held.clear()
        for name in list(self._names):
            self.remove(name)
        if self._bell is not None:
            with contextlib.suppress(self._ipc.ExistentialError):
                self._bell.unlink()


def version() -> str:
    import posix_ipc

    return str(posix_ipc.VERSION)


PEER = Peer(
    "posix_ipc",
    "posix_ipc",
    "`shm_open` + `mmap`, `pwrite` to fill; a semaphore for notice; to replace is to unlink and create",
    version,
    Posix,
    more=(
        "Has no rights but the file mode, no seals and no leases: any process of the user can write what "
        "others read.",
        '"Get again" says nothing about whether the value is current.',
    ),
)
