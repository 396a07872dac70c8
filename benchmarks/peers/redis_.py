"""Redis over a Unix socket: a value is copied to the server and to each reader."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.machine import version as distribution_version
from benchmarks.peers.base import Absent, Peer, Session, Site, Unsupported
from benchmarks.processes import process

LARGEST = 512 << 20
BATCH = 1000


class Redis(Session):
    def __init__(self, site: Site) -> None:
        import redis

        self._path = site.path("redis.sock")
        self._redis = redis.Redis(unix_socket_path=self._path)
        self._held: dict[str, bytes] = {}

    def put(self, name: str, data: bytes) -> str:
        if len(data) > LARGEST:
            raise Unsupported("a value is at most 512 MiB")
        self._redis.set(name, data)
        return name

    replace = put

    def remove(self, name: str) -> None:
        self._redis.unlink(name)

    def _get(self, key: str) -> bytes:
        value = self._redis.get(key)
        assert isinstance(value, bytes)
        return value

    def attach(self, key: str) -> int:
        return self._get(key)[0]

    def hold(self, key: str) -> memoryview:
        self._held[key] = self._get(key)
        return memoryview(self._held[key])

    def again(self, key: str) -> object:
        return self._get(key)

    def put_many(self, values: dict[str, bytes]) -> list[str]:
        names = list(values)
        for start in range(0, len(names), BATCH):
            self._redis.mset({name: values[name] for name in names[start : start + BATCH]})
        return names

    def get_many(self, keys: Sequence[str]) -> int:
        batches = (self._redis.mget(keys[start : start + BATCH]) for start in range(0, len(keys), BATCH))
        return sum(len(batch) for batch in batches)  # type: ignore[arg-type, unused-ignore]

    def put_map(self, name: str, values: dict[str, bytes]) -> str:
        self._redis.hset(name, mapping=values)  # type: ignore[arg-type, unused-ignore]
        return name

    def get_map(self, key: str, parts: Sequence[str]) -> int:
        return len(self._redis.hmget(key, list(parts)))  # type: ignore[arg-type, unused-ignore]

    def announce(self, name: str, data: bytes) -> None:
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(name, data)
            pipeline.publish(name, data)
            pipeline.execute()

    def watch(self, name: str) -> Iterator[Any]:
        with self._redis.pubsub(ignore_subscribe_messages=True) as messages:
            messages.subscribe(name)
            for message in messages.listen():
                yield message["data"]

    async def watch_loop(self, name: str) -> AsyncIterator[Any]:
        from redis import asyncio

        client = asyncio.Redis(unix_socket_path=self._path)
        async with client, client.pubsub(ignore_subscribe_messages=True) as messages:
            await messages.subscribe(name)
            async for message in messages.listen():
                yield message["data"]

    def close(self) -> None:
        self._held.clear()
        self._redis.close()


@contextmanager
def serve(site: Site) -> Iterator[list[int]]:
    binary = _binary()
    flags = ["--port", "0", "--save", "", "--appendonly", "no", "--dir", site.folder, "--maxclients", "2000"]
    path = site.path("redis.sock")
    with process([binary, *flags, "--unixsocket", path], site.cpu, path) as child:
        yield [child.pid]


def _binary() -> str:
    binary = shutil.which("redis-server")
    if binary is None:
        raise Absent("redis-server is not installed: apt-get install redis-server")
    return binary


def version() -> str:
    import subprocess

    import redis

    text = subprocess.run([_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    server = next((word[2:] for word in text.split() if word.startswith("v=")), "")
    hiredis = distribution_version("hiredis")
    return f"{redis.__version__} (server {server}" + (f", hiredis {hiredis})" if hiredis else ")")


PEER = Peer(
    "redis",
    "Redis, Unix socket",
    "`SET`, `GET`, `MSET`, `MGET`, `PUBLISH`, with hiredis; persistence off",
    version,
    Redis,
    serve,
    more=("Copies the value into the server and out of it for each reader.",),
)
