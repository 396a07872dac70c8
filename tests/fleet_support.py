"""Hosts of a fleet on this machine, each a process of its own, joined over loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from shmhost.testing.process import HostProcess
from shmprotocol.kernel.constants import GIB

WINDOW = (0x520000000000, 64 * GIB)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def write_plan(folder: Path, name: str, port: int, others: Sequence[int], **values: object) -> str:
    """Write the file of a fleet for one host; return its path."""
    values = {
        "fleet": "test",
        "name": name,
        "listen": [f"tcp/127.0.0.1:{port}"],
        "connect": [f"tcp/127.0.0.1:{other}" for other in others],
        "slices": 8,
        **values,
    }
    path = folder / f"{name}.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
    return str(path)


@contextmanager
def fleet(folder: Path, *names: str, **values: object) -> Iterator[list[HostProcess]]:
    """Start hosts of one fleet, all at once."""
    ports = free_ports(len(names))
    plans = [
        write_plan(folder, name, port, [other for other in ports if other != port], **values)
        for name, port in zip(names, ports, strict=True)
    ]
    with ExitStack() as stack, ThreadPoolExecutor(len(names)) as pool:
        hosts = list(pool.map(start, plans))
        for host in hosts:
            stack.enter_context(host)
        yield hosts


def start(plan: str, **settings: object) -> HostProcess:
    """Start a host of a fleet; return when it listens."""
    return HostProcess(**{"fleet": plan, "windows": (WINDOW,), "budget": "256M", **settings})


def statuses(plan: str) -> list[dict[str, Any]]:
    """Return what `shmhost fleet` says about each host."""
    command = [sys.executable, "-m", "shmhost", "fleet", "--fleet", plan, "--json"]
    output = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    return list(json.loads(output)["hosts"])
