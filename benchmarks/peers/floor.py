"""The floor: plain system calls, and one C call to a bare host that checks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import kernel
from benchmarks.peers.base import Peer, Session, Site
from benchmarks.processes import bare_attach, bare_host, connected


class Floor(Session):
    """A key is the size of the value, and the path of its descriptor."""

    def __init__(self, site: Site) -> None:
        self._socket = connected(site.path(f"bare-{site.cpu}.sock"))
        self._folder = site.folder
        self._fifo = site.path("floor.fifo")
        self._descriptors: dict[str, int] = {}
        self._calls: dict[str, Any] = {}
        self._held: dict[str, memoryview] = {}
        self._bell = -1

    def put(self, name: str, data: bytes) -> str:
        self._descriptors[name] = kernel.sealed(data)
        return f"{len(data)}:/proc/{os.getpid()}/fd/{self._descriptors[name]}"

    def replace(self, name: str, data: bytes) -> str:
        self.remove(name)
        return self.put(name, data)

    def remove(self, name: str) -> None:
        os.close(self._descriptors.pop(name))

    def attach(self, key: str) -> int:
        call = self._calls.get(key)
        if call is None:
            size = int(key.partition(":")[0]) + kernel.HEADER_SIZE
            call = self._calls[key] = bare_attach(self._folder, self._socket, size)
        call()
        return 0

    def hold(self, key: str) -> memoryview:
        descriptor = os.open(key.partition(":")[2], os.O_RDONLY)
        view = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))[kernel.HEADER_SIZE :]
        os.close(descriptor)
        self._held[""] = view
        return view

    def again(self, key: str) -> object:
        return self._held[""][:]

    def announce(self, name: str, data: bytes) -> None:
        if self._bell < 0:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(self._fifo)
            self._bell = os.open(self._fifo, os.O_RDWR)
        os.write(self._bell, data[:16])

    def watch(self, name: str) -> Iterator[Any]:
        bell = self._listen()
        try:
            while True:
                yield os.read(bell, 16)
        finally:
            os.close(bell)

    async def watch_loop(self, name: str) -> AsyncIterator[Any]:
        bell, loop, news = self._listen(), asyncio.get_running_loop(), asyncio.Event()
        os.set_blocking(bell, False)
        loop.add_reader(bell, news.set)
        try:
            while True:
                await news.wait()
                news.clear()
                with contextlib.suppress(BlockingIOError):  # the loop may have called twice for one value
                    yield os.read(bell, 16)
        finally:
            loop.remove_reader(bell)
            os.close(bell)

    def _listen(self) -> int:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._fifo)
        return os.open(self._fifo, os.O_RDWR)  # as a writer too, so that the end never comes

    def close(self) -> None:
        self._held.clear()
        for name in list(self._descriptors):
            self.remove(name)
        self._socket.close()


@contextmanager
def serve(site: Site) -> Iterator[list[int]]:
    with bare_host(site.folder, site.cpu) as (_, pid):
        yield [pid]


PEER = Peer(
    "floor",
    "floor",
    "attach: one C call to a bare uvloop host; put: the kernel's part of a sealed region; notice: a pipe",
    lambda: "",
    Floor,
    serve,
)
