"""Arenas of this project: `arena`, `get`, `follow`. Each process that publishes owns one."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.machine import version
from benchmarks.peers.base import Peer, Session, Site
from benchmarks.processes import host

MIB, GIB = 1 << 20, 1 << 30
NAME = "values"  # of the arena of the first process that publishes: that of what is watched by its name
NAMES = 50_000


class ArenaSession(Session):
    def __init__(self, site: Site) -> None:
        import shmclient

        self._path = _socket_path(site)
        self._shm = shmclient.connect(self._path)
        self._owned: Any = None
        self._held: dict[str, memoryview] = {}

    def _arena(self) -> Any:
        """Return the arena of this process."""
        import shmclient

        if self._owned is None:
            settings: dict[str, Any] = {"max_size": 8 * GIB, "names": NAMES, "keep": False, "replace": False}
            try:
                self._owned = self._shm.arena(NAME, 32 * MIB, **settings)
            except shmclient.RegionExists:
                self._owned = self._shm.arena(f"{NAME}-{os.getpid()}", 32 * MIB, **settings)
        return self._owned

    def put(self, name: str, data: bytes) -> str:
        arena = self._arena()
        arena[name] = data
        return f"{arena.name}/{name}"

    replace = put

    def remove(self, name: str) -> None:
        del self._owned[name]

    def attach(self, key: str) -> int:
        value: int = self._shm.get(key)[0]
        return value

    def hold(self, key: str) -> memoryview:
        value: memoryview = self._shm.get(key)
        self._held[key] = value
        return value

    def again(self, key: str) -> object:
        return self._shm.get(key)

    def put_many(self, values: dict[str, bytes]) -> list[str]:
        arena = self._arena()
        arena.put_many(values)
        return [f"{arena.name}/{name}" for name in values]

    def get_many(self, keys: Sequence[str]) -> int:
        get = self._shm.get
        for key in keys:
            get(key)
        return len(keys)

    def put_map(self, name: str, values: dict[str, bytes]) -> str:
        return self.put(name, values)  # type: ignore[arg-type]

    def get_map(self, key: str, parts: Sequence[str]) -> int:
        value: Any = self._shm.get(key)
        return len([value[part] for part in parts])

    def announce(self, name: str, data: bytes) -> None:
        self._arena()[name] = data

    def watch(self, name: str) -> Iterator[Any]:
        return iter(self._shm.follow(f"{NAME}/{name}"))

    async def watch_loop(self, name: str) -> AsyncIterator[Any]:
        from shmclient import aio

        async with await aio.connect(self._path) as shm, await shm.follow(f"{NAME}/{name}") as values:
            async for value in values:
                yield value

    def close(self) -> None:
        self._held.clear()
        if self._owned is not None:
            self._owned.close()
        self._shm.close()


def _folder(site: Site) -> str:
    return site.path("arena")  # the host of regions has the same name in the folder of all


def _socket_path(site: Site) -> str:
    return f"{_folder(site)}/ours-{site.cpu}.sock"


@contextmanager
def serve(site: Site) -> Iterator[list[int]]:
    os.makedirs(_folder(site), exist_ok=True)
    with host(_folder(site), site.cpu) as (_, pid):
        yield [pid]


PEER = Peer(
    "arena",
    "shmhost, arena",
    "`arena[name] = value`, `get`, `follow`; only the owner can write, and rights are the arena's",
    lambda: version("shmhost"),
    ArenaSession,
    serve,
    more=(
        "The memory of replaced values is used again, once no reader holds them.",
        "A get from nothing is the get of a value: the arena itself is mapped once in a process.",
    ),
)
