"""The hosts that this process has been connected to, and its clients of those that references name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

_PATHS: dict[str, str] = {}  # an entry for each host, of some 100 bytes


def note_host(origin: str, path: str) -> None:
    """Note where a host listens; the path may be relative."""
    _PATHS[origin] = absolute(path)


def absolute(path: str) -> str:
    """Return a path that is absolute. † os.path.abspath takes 4 us, of an absolute one too (2026-11)."""
    return path if path.startswith("/") else os.path.abspath(path)


def path_of(origin: str) -> str:
    """Return the absolute path of a host's socket; KeyError if this process was never connected to it."""
    return _PATHS[origin]


class Opener:
    """The clients of this process that open references: one for each host. `connect` is the sync client's."""

    connect: Callable[[str], Any]

    def __init__(self) -> None:
        self._clients: dict[str, Any] = {}

    def client(self, path: str) -> Any:
        """Return the client of the host at a socket. HostGone."""
        client = self._clients.get(path)
        if client is None:
            new = self.connect(path)
            client = self._clients.setdefault(path, new)
            if client is not new:  # another thread was first
                new.close()
        return client


OPENER = Opener()
