"""Hosts of a fleet on this machine, each a process of its own, joined over loopback."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import fleet_hosts
from benchmarks.fleet_hosts import WINDOW
from shmhost.testing.process import HostProcess


def write_plan(folder: Path, name: str, port: int, others: Sequence[int], **values: object) -> str:
    """Write the file of a host of the fleet "test"; return its path."""
    return fleet_hosts.write_plan(folder, name, port, others, **{"fleet": "test", **values})


@contextmanager
def fleet(folder: Path, *names: str, **values: object) -> Iterator[list[HostProcess]]:
    """Start hosts of one fleet, all at once."""
    with fleet_hosts.running(folder, names, start, **{"fleet": "test", **values}) as hosts:
        yield hosts


def start(plan: str, **settings: object) -> HostProcess:
    """Start a host of a fleet; return when it listens."""
    return HostProcess(**{"fleet": plan, "windows": (WINDOW,), "budget": "256M", **settings})


def statuses(plan: str) -> list[dict[str, Any]]:
    """Return what `shmhost fleet` says about each host."""
    command = [sys.executable, "-m", "shmhost", "fleet", "--fleet", plan, "--json"]
    output = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return list(json.loads(output)["hosts"])


def metrics_of(port: int) -> dict[str, float]:
    """Return the metrics without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.split() for line in lines if not line.startswith("#") and "{" not in line]
    return {name: float(value) for name, value in pairs}


class Link:
    """A link to a port of this machine, through a thread that can hold back what comes from there.

    After `limit` bytes nothing more comes until `release`, while the other way stays as it is: one-way loss.
    """

    def __init__(self, target: int, limit: int) -> None:
        self._target = target
        self._left: int | None = limit
        self._released = threading.Event()
        self.held = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def release(self) -> None:
        """Cut the link, and let all through from the next one on."""
        self._left = None
        self._released.set()
        for each in self._sockets[1:]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink, is_held in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._pass, args=(source, sink, is_held), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_held: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_held and self._left is not None:
                    self._left -= len(data)
                    if self._left < 0:
                        self.held.set()
                        self._released.wait()
                        return
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
