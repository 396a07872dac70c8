"""A client that changes things at a host that may die, and knows what may be there afterwards.

That is, for each name, what the host has confirmed, or what was under way when it died.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import shmclient
from shmprotocol.errors import RegionNotFound

ARENA = 1 << 20  # bytes


class Value(NamedTuple):
    """What a name has: bytes that are all the same, and a mode."""

    fill: int
    size: int
    mode: int


@dataclasses.dataclass
class Known:
    """The possible values of a name. `sure` was confirmed last, None: it is gone; `maybe` came later."""

    sure: Value | None = None
    maybe: list[Value | None] = dataclasses.field(default_factory=list)
    generation: int = 0
    is_held: bool = False


class Teller:
    """A client that changes things; each of its handles is held until `close`."""

    def __init__(self, shm: shmclient.Client, wait_for_host: Callable[[], None]) -> None:
        self.shm = shm
        self.names: dict[str, Known] = {}
        self.failures: list[str] = []  # of requests
        self.requests = 0
        self.arenas: dict[str, tuple[shmclient.Arena, set[bytes]]] = {}  # with all that was put there
        self._held: list[tuple[Any, Value]] = []
        self._wait_for_host = wait_for_host
        self._fill = 0

    def value(self, size: int, mode: int = 0o600) -> Value:
        """Return a value that no name has had, or not for long."""
        self._fill = self._fill % 250 + 1
        return Value(self._fill, size, mode)

    def put(self, name: str, size: int, *, hold: bool = True, plain: bool = False, **options: Any) -> None:
        """Put a value, and hold it."""
        value = self.value(size)
        data: Any = bytes([value.fill]) * size
        data = memoryview(data) if plain else data
        region = self.attempt(name, value, lambda: self.shm.put(name, data, **options))
        if region is not None:
            self._take(name, region, value, hold=hold)

    def build(self, name: str, size: int, seal: str) -> None:
        """Build a region, and hold it."""
        value = self.value(size)

        def build() -> Any:
            with self.shm.create(name, size, seal=seal) as builder:
                builder.data[:] = bytes([value.fill]) * size
            return builder.region

        region = self.attempt(name, value, build)
        if region is not None:
            self._take(name, region, value, hold=True)

    def grow_region(self, name: str, seal: Any) -> None:
        """Build a region that can grow, have it do so, and hold it: all of it can be written, with zeros."""
        value = Value(0, 0, 0o600)

        def build() -> Any:
            with self.shm.create(name, 5000, max_size=ARENA, seal=seal) as builder:
                pass
            return builder

        builder = self.attempt(name, value, build)
        if builder is None:
            return
        self._take(name, builder.region, value, hold=True)
        for size in (20_000, 200_000):
            grown = self.ask(lambda size=size: builder.region.resize(size))
            assert grown is None or grown >= size
            builder.data[:] = bytes(builder.size)
            assert bytes(builder.region.data) == bytes(builder.size)

    def put_dict(self, name: str) -> None:
        """Put a dict, and hold it."""
        value = self.value(0)
        region = self.attempt(name, value, lambda: self.shm.put(name, {"a": bytes([value.fill]), "b": b"x"}))
        if region is not None:
            self._take(name, region, value, hold=True)

    def unlink(self, name: str) -> None:
        """Unlink a name."""
        with contextlib.suppress(RegionNotFound):  # it was given up with its host
            self.attempt(name, None, lambda: self.shm.unlink(name))

    def chmod(self, name: str, mode: int) -> None:
        """Change the mode of a name."""
        sure = self.names[name].sure
        assert sure is not None
        self.attempt(name, sure._replace(mode=mode), lambda: self.shm.chmod(name, mode))

    def own(self, name: str) -> None:
        """Make an arena, and put a value there; the next try, if the host dies meanwhile."""
        for _ in range(2):
            arena = self.ask(lambda: self.shm.arena(name, ARENA, max_size=4 * ARENA))
            if arena is not None:
                self.arenas[name] = arena, set()
                self.put_in(name)
                return

    def put_in(self, name: str) -> None:
        """Put a value in an arena: that needs no host."""
        arena, values = self.arenas[name]
        value = bytes([self.value(0).fill]) * 100
        values.add(value)
        arena["a"] = value
        assert bytes(arena["a"]) == value

    def grow(self, name: str) -> None:
        """Make an arena larger; the host that made it is needed for that."""
        arena, _ = self.arenas[name]
        with contextlib.suppress(shmclient.HostGone):
            arena.grow(arena.size + ARENA)

    def ask(self, do: Callable[[], Any]) -> Any:
        """Do what changes no name; None if that fails with the host."""
        self.requests += 1
        try:
            return do()
        except shmclient.HostGone as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            self._wait_for_host()
            return None

    def attempt(self, name: str, after: Value | None, do: Callable[[], Any]) -> Any:
        """Do what gives a name another value; None if the host died meanwhile."""
        entry, failures = self.names.setdefault(name, Known()), len(self.failures)
        result = self.ask(do)
        if len(self.failures) > failures:
            entry.maybe.append(after)
            return None
        entry.sure, entry.maybe = after, []
        return True if result is None else result

    def _take(self, name: str, region: Any, value: Value, *, hold: bool) -> None:
        entry = self.names[name]
        assert region.generation > entry.generation, (name, region.generation, entry)
        entry.generation, entry.is_held = region.generation, hold
        if hold:
            self._held.append((region, value))
        else:
            region.close()

    def check_held(self) -> None:
        """Check that what is held is what it was."""
        for region, value in self._held:
            assert not value.size or bytes(region.data) == bytes([value.fill]) * value.size
            region.is_current()

    def close(self) -> None:
        """Let go of everything."""
        for arena, _ in self.arenas.values():
            arena.close()
        for region, _ in self._held:
            region.close()
        self._held.clear()
        self.shm.close()
