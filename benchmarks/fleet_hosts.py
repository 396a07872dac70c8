"""Hosts of a fleet on this machine, for the length of a block, and a plain TCP copy beside them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import shmclient
from benchmarks.processes import ROOT, end
from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import GIB, KIB, MIB

WINDOW = (0x520000000000, 64 * GIB)
PREFIX = "bench/"
WAIT_S = 120.0
NAMES = {KIB: "1 KiB", MIB: "1 MiB", 64 * MIB: "64 MiB", 256 * MIB: "256 MiB", GIB: "1 GiB"}
SINK = """
import os, socket, sys
connection = socket.socket(fileno=int(sys.argv[1]))
while size := int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "little"):
    data = memoryview(bytearray(size))
    done = 0
    while done < size:
        count = connection.recv_into(data[done:])
        if not count:
            sys.exit("the sender is gone")
        done += count
    connection.sendall(b"!")
"""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def write_plan(folder: Path, name: str, port: int, others: Sequence[int], **values: object) -> str:
    """Write the file of a fleet for one host; return its path."""
    keys = {
        "name": name,
        "listen": [f"tcp/127.0.0.1:{port}"],
        "connect": [f"tcp/127.0.0.1:{other}" for other in others],
        "slices": 8,
        **values,
    }
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    return str(path)


@contextlib.contextmanager
def running(
    folder: Path, names: Sequence[str], start: Callable[[str], HostProcess], **values: object
) -> Iterator[list[HostProcess]]:
    """Run hosts of one fleet, started all at once by their plans."""
    ports = free_ports(len(names))
    plans = [
        write_plan(folder, name, port, [other for other in ports if other != port], **values)
        for name, port in zip(names, ports, strict=True)
    ]
    with ExitStack() as stack, ThreadPoolExecutor(len(names)) as pool:
        started = list(pool.map(start, plans))
        for host in started:
            stack.enter_context(host)
        yield started


@contextlib.contextmanager
def hosts(folder: Path, count: int, memory: int, **values: object) -> Iterator[list[HostProcess]]:
    """Run hosts that import all of each other; `memory` is what the copies of one may have."""
    names = [f"host-{number}" for number in range(count)]
    keys = {"fleet": "bench", "memory": str(memory), "export": [PREFIX], "import": [PREFIX], **values}
    with running(folder, names, lambda plan: _start(plan, memory), **keys) as started:
        yield started


def _start(plan: str, memory: int) -> HostProcess:
    return HostProcess(fleet=plan, windows=(WINDOW,), budget=str(2 * memory))


class Pair:
    """A client of a host that exports, and one of a host that imports."""

    def __init__(self, first: HostProcess, second: HostProcess) -> None:
        self.pids = first.pid, second.pid
        self.here = shmclient.connect(first.socket_path)
        self.there = shmclient.connect(second.socket_path)
        self._count = 0

    def trip_s(self, value: bytes) -> tuple[float, float]:
        """Return the seconds from `put` here to `open` there, and those of them that `put` took."""
        self._count += 1
        name = f"{PREFIX}{self._count}"
        began_s = time.perf_counter()
        self.here.put(name, value).close()
        put_s = time.perf_counter() - began_s
        self.there.open(name, wait=WAIT_S).close()
        took_s = time.perf_counter() - began_s
        self.here.unlink(name)
        while name in self.there:
            time.sleep(0.001)
        return took_s, put_s

    def close(self) -> None:
        """End both clients."""
        self.here.close()
        self.there.close()


class Sink:
    """Another process, which receives what is sent over TCP into fresh memory."""

    def __init__(self, child: subprocess.Popen[bytes], connection: socket.socket) -> None:
        self._child = child
        self._connection = connection

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    def copy_s(self, data: bytes | memoryview) -> float:
        """Return the seconds of a copy: from the first byte sent to the answer that the last has come."""
        began_s = time.perf_counter()
        self._connection.sendall(len(data).to_bytes(8, "little"))
        self._connection.sendall(data)
        if self._connection.recv(1) != b"!":
            raise RuntimeError("the process that receives has ended")
        return time.perf_counter() - began_s


@contextlib.contextmanager
def sink() -> Iterator[Sink]:
    """Run a process that receives over loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        command = [sys.executable, "-c", SINK, str(far.fileno())]
        child = subprocess.Popen(command, pass_fds=(far.fileno(),), cwd=ROOT)
        far.close()
        try:
            yield Sink(child, near)
        finally:
            end(child)
