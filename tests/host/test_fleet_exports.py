"""What is announced of a region that changes while it is hashed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from shmhost.core.accounts import Accounts
from shmhost.core.headers import header_of
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmhost.core.resources import Totals
from shmhost.core.window import STEP
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.exports import Exports
from shmhost.fleet.plan import SlicedAllocator
from shmhost.fleet.threads import Threads
from shmprotocol.abi.header import FLAG_SEAL_FULL, KIND_DATA
from shmprotocol.wire.messages import Create, Publish
from shmprotocol.wire.names import ChangeKind, Seal

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

OWNER = Peer(7, 70)


class Meanwhile(Threads):
    """Threads that something happens before: `event`, once."""

    def __init__(self, event: Callable[[], object]) -> None:
        super().__init__()
        self._events = [event]

    async def run(self, call: Callable[..., Any], *arguments: object) -> Any:
        while self._events:
            self._events.pop()()
        return await super().run(call, *arguments)


class World:
    """The registry of a host that exports `models/`, and what it announces."""

    def __init__(self, event: Callable[[World], object]) -> None:
        allocator = SlicedAllocator(((1 << 40, 64 * STEP),), 2)
        allocator.use(0)
        self.registry = Registry(
            allocator,
            Accounts(Totals(1 << 30), {0, 7}),
            time.time_ns,
            lambda memory_object: memory_object.close(),
        )
        self.news: list[Announcement] = []
        self.gone: list[str] = []
        threads = Meanwhile(lambda: event(self))
        self.exports = Exports(
            self.registry,
            allocator,
            ("models/",),
            threads,
            self.news.append,
            lambda name, _: self.gone.append(name),
        )

    def put(self, seal: Seal = Seal.FULL) -> Region:
        """Publish a region, as the registry says it to the exports."""
        registry = self.registry
        region = registry.create(Create(1, "models/x", 100, seal.value, "memfd", 0o644, True), OWNER)
        region.kind, region.seal = KIND_DATA, seal
        region.object = Memfd("models/x", region.capacity)
        region.generation, region.created_ns = registry.next_generation(region), time.time_ns()
        publish = Publish(0, region.number, KIND_DATA, 100, 0, 0, 0, 0)
        header = header_of(region, publish, FLAG_SEAL_FULL, region.generation, region.created_ns)
        region.object.publish(header.pack(), Seal.FULL)
        registry.publish(region)
        self.exports.note(ChangeKind.PUBLISHED, region)
        return region

    def chmod(self) -> None:
        region = self.registry.current["models/x"]
        region.mode = 0o600
        self.exports.note(ChangeKind.CHANGED, region)


def hash_with(event: Callable[[World], object]) -> World:
    """Put a region, and have something happen while it is hashed."""

    async def run() -> World:
        world = World(event)
        world.put()
        await world.exports.hash_pending()
        return world

    return asyncio.run(run())


def test_mode_that_is_set_while_a_region_is_hashed_is_announced() -> None:
    assert [each.mode for each in hash_with(World.chmod).news] == [0o600]


def test_region_is_not_announced_once_its_name_has_one_that_others_cannot_have() -> None:
    world = hash_with(lambda world: world.put(Seal.WRITER))
    assert world.news == []
    assert world.exports.entries == {}


def test_region_is_announced_with_each_generation_that_is_hashed() -> None:
    world = hash_with(World.put)
    assert [each.generation for each in world.news] == [1, 2]
    assert world.gone == []
