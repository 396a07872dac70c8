"""pyzmq over `ipc://`: a small store answers requests and publishes; a value is copied to each reader."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.peers.base import Peer, Session, Site
from benchmarks.processes import process


class Zmq(Session):
    def __init__(self, site: Site) -> None:
        import zmq

        self._zmq = zmq
        self._path = site.path("zmq.sock")
        self._context = zmq.Context.instance()  # one for all clients of the process: it has a thread
        self._socket = self._context.socket(zmq.REQ)
        self._socket.connect(f"ipc://{self._path}")
        self._held: dict[str, Any] = {}

    def put(self, name: str, data: bytes) -> str:
        self._socket.send_multipart([b"put", name.encode(), data], copy=len(data) < 65536)
        self._socket.recv()
        return name

    replace = put

    def remove(self, name: str) -> None:
        self._socket.send_multipart([b"drop", name.encode()])
        self._socket.recv()

    def _get(self, key: str) -> Any:
        self._socket.send_multipart([b"get", key.encode()])
        return self._socket.recv(copy=False)

    def attach(self, key: str) -> int:
        return int(self._get(key).buffer[0])

    def hold(self, key: str) -> memoryview:
        self._held[key] = self._get(key)
        view: memoryview = self._held[key].buffer
        return view

    def again(self, key: str) -> object:
        return self._get(key)

    def announce(self, name: str, data: bytes) -> None:
        self.put(name, data)

    def watch(self, name: str) -> Iterator[Any]:
        with self._context.socket(self._zmq.SUB) as socket:
            self._follow(socket, name)
            while True:
                yield socket.recv_multipart()[1]

    async def watch_loop(self, name: str) -> AsyncIterator[Any]:
        import zmq.asyncio

        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
            self._follow(socket, name)
            while True:
                yield (await socket.recv_multipart())[1]

    def _follow(self, socket: Any, name: str) -> None:
        socket.connect(f"ipc://{self._path}.pub")
        socket.subscribe(name.encode())

    def close(self) -> None:
        self._held.clear()
        self._socket.close(linger=0)


def store(path: str) -> None:
    """Answer requests, and publish each value that is put."""
    import zmq

    context = zmq.Context()
    values: dict[bytes, Any] = {}
    replies, news = context.socket(zmq.REP), context.socket(zmq.PUB)
    news.bind(f"ipc://{path}.pub")
    replies.bind(f"ipc://{path}")
    while True:
        verb, name, *data = replies.recv_multipart(copy=False)
        if verb.bytes == b"get":
            replies.send(values[name.bytes], copy=False)
            continue
        if verb.bytes == b"drop":
            values.pop(name.bytes, None)
        else:
            values[name.bytes] = data[0].buffer
            news.send_multipart([name.bytes, data[0].buffer], copy=False)
        replies.send(b"")


@contextmanager
def serve(site: Site) -> Iterator[list[int]]:
    path = site.path("zmq.sock")
    with process([sys.executable, "-m", "benchmarks.peers.zmq_", path], site.cpu, path) as child:
        yield [child.pid]


def version() -> str:
    import zmq

    return f"{zmq.__version__} (libzmq {zmq.zmq_version()})"


PEER = Peer(
    "pyzmq",
    "pyzmq, ipc",
    "REQ/REP to a small store in Python, PUB/SUB for notice, `copy=False`",
    version,
    Zmq,
    serve,
    more=("Copies the value through sockets, into the store and to each reader.",),
)

if __name__ == "__main__":
    store(sys.argv[1])
