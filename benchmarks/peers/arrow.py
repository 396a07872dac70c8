"""pyarrow: an IPC file on /dev/shm, memory-mapped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.base import Peer, Session, Site


class Arrow(Session):
    def __init__(self, site: Site) -> None:
        import pyarrow

        self._arrow = pyarrow
        self._schema = pyarrow.schema([("value", pyarrow.uint8())])
        self._folder = f"/dev/shm/{site.prefix}arrow"
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        self._names: set[str] = set()
        self._held: dict[str, Any] = {}

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name.replace('/', '.')}"

    def put(self, name: str, data: bytes) -> str:
        arrow, path = self._arrow, self._path(name)
        column = arrow.Array.from_buffers(arrow.uint8(), len(data), [None, arrow.py_buffer(data)])
        batch = arrow.record_batch([column], schema=self._schema)
        with arrow.OSFile(path + ".new", "wb") as file, arrow.ipc.new_file(file, self._schema) as writer:
            writer.write_batch(batch)
        os.rename(path + ".new", path)
        self._names.add(name)
        return path

    replace = put

    def remove(self, name: str) -> None:
        self._names.discard(name)
        os.unlink(self._path(name))

    def _batch(self, key: str) -> Any:
        return self._arrow.ipc.open_file(self._arrow.memory_map(key)).get_batch(0)

    def attach(self, key: str) -> int:
        return memoryview(self._batch(key).column(0).buffers()[1])[0]

    def hold(self, key: str) -> memoryview:
        self._held[key] = self._batch(key).column(0)
        return memoryview(self._held[key].buffers()[1])

    def put_map(self, name: str, values: dict[str, bytes]) -> str:
        arrow, path = self._arrow, self._path(name)
        batch = arrow.record_batch({key: [data] for key, data in values.items()})
        with arrow.OSFile(path, "wb") as file, arrow.ipc.new_file(file, batch.schema) as writer:
            writer.write_batch(batch)
        self._names.add(name)
        return path

    def get_map(self, key: str, parts: Sequence[str]) -> int:
        batch = self._batch(key)
        return len([batch.column(part)[0].as_buffer() for part in parts])

    def again(self, key: str) -> object:
        return self._held[key].to_numpy()

    def close(self) -> None:
        self._held.clear()
        for name in list(self._names):
            self.remove(name)
        with contextlib.suppress(OSError):  # another process of the benchmark has files there
            os.rmdir(self._folder)


def version() -> str:
    import pyarrow

    return str(pyarrow.__version__)


PEER = Peer(
    "pyarrow",
    "pyarrow on /dev/shm",
    "an IPC file, written and renamed; `memory_map` + `ipc.open_file` to read",
    version,
    Arrow,
    more=(
        "Has no rights but the file mode, and no seals: a writer can change a file under its readers.",
        '"Get again" says nothing about whether the value is current.',
    ),
)
