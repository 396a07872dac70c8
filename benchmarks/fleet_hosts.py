"""Hosts of a fleet on this machine, for the length of a block, and a plain TCP copy beside them."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.processes import ROOT, end
from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import GIB

WINDOW = (0x520000000000, 64 * GIB)
PREFIX = "bench/"
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


@contextlib.contextmanager
def hosts(folder: Path, count: int, memory: int, **values: object) -> Iterator[list[HostProcess]]:
    """Run hosts that import all of each other; `memory` is what the copies of one may have."""
    ports = free_ports(count)
    plans = []
    for number, port in enumerate(ports):
        others = [each for each in ports if each != port]
        keys = {
            "fleet": "bench",
            "name": f"host-{number}",
            "listen": [f"tcp/127.0.0.1:{port}"],
            "connect": [f"tcp/127.0.0.1:{other}" for other in others],
            "slices": 8,
            "memory": str(memory),
            "export": [PREFIX],
            "import": [PREFIX],
            **values,
        }
        plan = folder / f"host-{number}.toml"
        plan.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
        plans.append(str(plan))
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        running = list(pool.map(lambda plan: _start(plan, memory), plans))
        for each in running:
            stack.enter_context(each)
        yield running


def _start(plan: str, memory: int) -> HostProcess:
    return HostProcess(fleet=plan, windows=(WINDOW,), budget=str(2 * memory))


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
