"""Vineyard: blobs in the memory of its daemon, by object id."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import version
from benchmarks.peers.base import Absent, Peer, Session, Site
from benchmarks.processes import process

SIZE = "6Gi"


class Vineyard(Session):
    """The key is the object's id: a blob has no name."""

    def __init__(self, site: Site) -> None:
        import vineyard

        self._id = vineyard.ObjectID
        self._client: Any = vineyard.connect(site.path("vineyard.sock"))
        self._ids: dict[str, Any] = {}
        self._held: dict[str, Any] = {}

    def put(self, name: str, data: bytes) -> str:
        builder = self._client.create_blob(len(data))
        builder.copy(0, data)
        self._ids[name] = builder.seal(self._client).id
        return repr(self._ids[name]).strip("\"'")

    def replace(self, name: str, data: bytes) -> str:
        old = self._ids.get(name)
        key = self.put(name, data)
        if old is not None:
            self._client.delete(old)
        return key

    def remove(self, name: str) -> None:
        self._client.delete(self._ids.pop(name))

    def attach(self, key: str) -> int:
        return memoryview(self._client.get_blob(self._id(key)))[0]

    def hold(self, key: str) -> memoryview:
        self._held[""] = self._client.get_blob(self._id(key))
        return memoryview(self._held[""])

    def hold_many(self, keys: Sequence[str]) -> None:
        self._held["many"] = self._client.get_blobs([self._id(key) for key in keys])

    def again(self, key: str) -> object:
        return memoryview(self._client.get_blob(self._id(key)))

    def get_many(self, keys: Sequence[str]) -> int:
        return len(self._client.get_blobs([self._id(key) for key in keys]))

    def close(self) -> None:
        self._held.clear()
        self._client.close()


@contextmanager
def serve(site: Site) -> Iterator[list[int]]:
    path = site.path("vineyard.sock")
    flags = ["--meta=local", f"--size={SIZE}", "--rpc=false", f"--socket={path}"]
    with process([_binary(), *flags], site.cpu, path) as child:
        yield [child.pid]


def _binary() -> str:
    import vineyard

    binary = Path(vineyard.__file__).parent / "bdist" / "vineyardd"
    if not os.access(binary, os.X_OK):
        raise Absent(f"the wheel has no {binary}")
    return str(binary)


def installed() -> str:
    _binary()
    return version("vineyard")


PEER = Peer(
    "vineyard",
    "Vineyard",
    "`create_blob`, `copy`, `seal`; `get_blob` by object id, which is faster than an object by name",
    installed,
    Vineyard,
    serve,
    more=(
        "A blob has no name and no generations: another process must learn the id of each new value. "
        "`put` and `get` of objects, which can have names, are slower.",
        "All clients map the daemon's memory writable: a faulty client can change the values of others.",
    ),
)
