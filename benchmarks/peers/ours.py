"""This project: `put`, `open`, `get`, `follow` of a client, and its host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.machine import version
from benchmarks.peers.base import Peer, Session, Site
from benchmarks.processes import host

BATCH = 1000


class Ours(Session):
    def __init__(self, site: Site) -> None:
        import shmclient

        self._path = site.path(f"ours-{site.cpu}.sock")
        self._shm = shmclient.connect(self._path)
        self._held: dict[str, memoryview] = {}

    def put(self, name: str, data: bytes) -> str:
        self._shm.put(name, data).close()
        return name

    replace = put

    def remove(self, name: str) -> None:
        self._shm.unlink(name)

    def attach(self, key: str) -> int:
        with self._shm.open(key) as region:
            return region.data[0]

    def hold(self, key: str) -> memoryview:
        value: memoryview = self._shm.get(key)
        self._held[key] = value
        return value

    def again(self, key: str) -> object:
        return self._shm.get(key)

    def get_many(self, keys: Sequence[str]) -> int:
        if hasattr(self._shm, "get_many"):
            return sum(len(self._shm.get_many(keys[at : at + BATCH])) for at in range(0, len(keys), BATCH))
        count = 0
        for start in range(0, len(keys), BATCH):
            for region in self._shm.open_many(keys[start : start + BATCH]):
                count += 1
                region.close()
        return count

    def put_map(self, name: str, values: dict[str, bytes]) -> str:
        self._shm.put(name, values).close()
        return name

    def get_map(self, key: str, parts: Sequence[str]) -> int:
        value = self._shm.get(key)
        return len([value[part] for part in parts])

    def announce(self, name: str, data: bytes) -> None:
        self._shm.put(name, data).close()

    def watch(self, name: str) -> Iterator[Any]:
        return iter(self._shm.follow(name))

    async def watch_loop(self, name: str) -> AsyncIterator[Any]:
        from shmclient import aio

        async with await aio.connect(self._path) as shm, await shm.follow(name) as values:
            async for value in values:
                yield value

    def close(self) -> None:
        self._held.clear()
        self._shm.close()


@contextmanager
def serve(site: Site) -> Iterator[list[int]]:
    with host(site.folder, site.cpu) as (_, pid):
        yield [pid]


PEER = Peer(
    "shmhost",
    "shmhost",
    "`put`, `open`, `get`, `follow`; values are sealed, have an owner and a mode, and are leased",
    lambda: version("shmhost"),
    Ours,
    serve,
)
