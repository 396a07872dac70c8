"""The face of a peer: how to start its server, and what a process can do with it. Imports no peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any


class Unsupported(Exception):
    """The peer cannot do this; the text is the footnote."""


class Absent(Exception):
    """The peer cannot run on this machine; the text says why."""


@dataclass(frozen=True)
class Site:
    """Where a peer lives: a folder for its sockets, a prefix for names elsewhere, a CPU for its server."""

    folder: str
    prefix: str
    cpu: int

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"


class Session:
    """A peer as one process uses it. A method that is not overridden is something the peer cannot do.

    Values are bytes. `put` and `replace` return the key by which another process finds the value: its name,
    unless the peer needs another. `attach`, `hold` and `again` give the first bytes of the value.
    """

    def put(self, name: str, data: bytes) -> str:
        """Publish a value under a name that is new."""
        raise Unsupported("cannot put")

    def replace(self, name: str, data: bytes) -> str:
        """Publish a newer value of a name; a reader of the older one must not see it change."""
        raise Unsupported("cannot replace a value that is being read")

    def remove(self, name: str) -> None:
        """Remove a name."""

    def attach(self, key: str) -> int:
        """Get a value from nothing, return its first byte, and keep nothing of it."""
        raise Unsupported("cannot attach")

    def subscribe(self, key: str) -> None:
        """Announce that `hold` follows; the owner publishes once more in between."""

    def hold(self, key: str) -> memoryview:
        """Get a value and keep it instead of the one that was held before."""
        raise Unsupported("cannot hold a value")

    def hold_many(self, keys: Sequence[str]) -> None:
        """Keep many values at once."""
        for key in keys:
            self.hold(key)

    def again(self, key: str) -> object:
        """Get the value that is held once more, as a new view of it."""
        raise Unsupported("cannot get again")

    def put_many(self, values: dict[str, bytes]) -> list[str]:
        """Publish many values, in one step if the peer has it."""
        return [self.put(name, data) for name, data in values.items()]

    def remove_many(self, names: Sequence[str]) -> None:
        """Remove what `put_many` published."""
        for name in names:
            self.remove(name)

    def get_many(self, keys: Sequence[str]) -> int:
        """Attach many values and let them go, in as few steps as the peer has; returns their number."""
        for key in keys:
            self.attach(key)
        return len(keys)

    def put_map(self, name: str, values: dict[str, bytes]) -> str:
        """Publish many parts as one value."""
        raise Unsupported("has no value of many parts")

    def get_map(self, key: str, parts: Sequence[str]) -> int:
        """Get a value and look up its parts; returns their number."""
        raise Unsupported("has no value of many parts")

    def announce(self, name: str, data: bytes) -> None:
        """Replace a value, and wake whoever watches its name."""
        raise Unsupported("has no notice of a new value")

    def watch(self, name: str) -> Iterator[Any]:
        """Yield each new value of a name, waiting in a thread without polling."""
        raise Unsupported("has no notice of a new value")

    def watch_loop(self, name: str) -> AsyncIterator[Any]:
        """Yield each new value of a name in an event loop, without polling and without a thread."""
        raise Unsupported("has no notice of a new value for an event loop")

    def close(self) -> None:
        """Give everything back, names included."""


Serve = Callable[[Site], AbstractContextManager[list[int]]]


@dataclass(frozen=True)
class Peer:
    """A peer: its names, the road that is measured, and how to use it.

    `serve` starts its server for the length of a block and gives the pids; `version` raises Absent or
    ImportError where the peer is not installed.
    """

    key: str
    title: str
    road: str
    version: Callable[[], str]
    connect: Callable[[Site], Session]
    serve: Serve | None = None
    more: tuple[str, ...] = ()  # remarks for the page
