"""A service manager of the tests, and hosts that are its real children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shmclient

PID = os.getpid()
VARIABLES = ("NOTIFY_", "WATCHDOG_", "LISTEN_")


class Manager:
    """The service manager's end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(20)
        self.socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def receive(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def pending(self) -> list[list[str]]:
        """Return what has come and was not received; wait for nothing."""
        messages = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.receive())
        self.socket.settimeout(20)
        return messages

    def receive_until(self, text: str) -> list[list[str]]:
        """Return all messages up to the one wanted."""
        messages = [self.receive()]
        while messages[-1] != [text]:
            messages.append(self.receive())
        return messages


@contextlib.contextmanager
def child(command: list[str], environment: dict[str, str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run Python with some variables; it is killed at the end of the block if it still runs."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLES)}
    process = subprocess.Popen(
        [sys.executable, *command], env=inherited | environment, stderr=subprocess.PIPE, text=True, **options
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def serve_command(path: Path) -> list[str]:
    return ["-m", "shmhost", "serve", "--socket", str(path)]


def finish(process: subprocess.Popen[str]) -> str:
    """End a host with SIGTERM; return what it logged and has not been read yet."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    return log


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"the host ended without {text!r}: {seen}")


def put_and_get(path: Path) -> bytes:
    with shmclient.connect(str(path)) as shm:
        shm.put("name", b"value").close()
        view = shm.get("name")
        value = bytes(view)
        del view
        return value


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


def scraped(path: Path) -> bytes:
    """Return the answer to a scrape of the metrics at a socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(65536), b""))
