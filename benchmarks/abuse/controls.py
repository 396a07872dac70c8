"""Controls beside the abusers: what the machine costs a bystander, whatever the host does."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator

from benchmarks.abuse.kinds import HOLD_S

MEMORY = 1 << 22  # bytes that are copied: more than the caches of a core, as an abuser's values are
MESSAGES = 200


def does_nothing(_path: str) -> Generator[None]:
    """Nobody: does nothing at all."""
    while True:
        time.sleep(HOLD_S)
        yield


def works_elsewhere(_path: str) -> Generator[None]:
    """Does what abusers do, system calls on sockets and copies, and never asks the host."""
    source, target = bytes(MEMORY), bytearray(MEMORY)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        while True:
            for _ in range(MESSAGES):
                ours.send(b"x" * 100)
                theirs.recv(200)
            target[:] = source
            yield
