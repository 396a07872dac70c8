"""`multiprocessing.shared_memory` of the standard library."""

from __future__ import annotations

import contextlib
import platform
import sys
from typing import Any

from benchmarks.peers.base import Peer, Session, Site

UNTRACKED: dict[str, Any] = {"track": False} if sys.version_info >= (3, 13) else {}


class Stdlib(Session):
    def __init__(self, site: Site) -> None:
        from multiprocessing.shared_memory import SharedMemory

        self._open: Any = SharedMemory
        self._prefix = site.prefix
        self._held: dict[str, Any] = {}
        self._names: set[str] = set()

    def put(self, name: str, data: bytes) -> str:
        key = self._prefix + name.replace("/", ".")
        memory = self._open(key, create=True, size=len(data))
        memory.buf[: len(data)] = data
        memory.close()
        self._names.add(name)
        return key

    def replace(self, name: str, data: bytes) -> str:
        self.remove(name)
        return self.put(name, data)

    def remove(self, name: str) -> None:
        self._names.discard(name)
        with contextlib.suppress(FileNotFoundError):
            memory = self._open(self._prefix + name.replace("/", "."))
            memory.close()
            memory.unlink()

    def attach(self, key: str) -> int:
        memory = self._open(key, **UNTRACKED)
        first = int(memory.buf[0])
        memory.close()
        return first

    def hold(self, key: str) -> memoryview:
        if key in self._held:
            self._held.pop(key).close()
        self._held[key] = self._open(key, **UNTRACKED)
        view: memoryview = self._held[key].buf[:]
        return view

    def again(self, key: str) -> object:
        return self._held[key].buf[:]

    def close(self) -> None:
        for memory in self._held.values():
            with contextlib.suppress(BufferError):
                memory.close()
        for name in list(self._names):
            self.remove(name)


PEER = Peer(
    "shared_memory",
    "shared_memory",
    "`multiprocessing.shared_memory`: `SharedMemory(create=True)`, `SharedMemory(name)`; to replace is to "
    "unlink and create",
    lambda: f"Python {platform.python_version()}",
    Stdlib,
    more=(
        "Has no rights but the file mode, no seals and no leases: any process of the user can write what "
        "others read.",
        "Python before 3.13 also tells the resource tracker, a process of its own, about each attach.",
        '"Get again" says nothing about whether the value is current.',
    ),
)
