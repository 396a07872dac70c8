"""What is announced of a region that changes while it is hashed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
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
from shmhost.fleet import exports, threads
from shmhost.fleet.announcements import Announcement
from shmhost.fleet.exports import Exports
from shmhost.fleet.plan import SlicedAllocator
from shmhost.fleet.threads import Threads, hash_all
from shmprotocol.abi.header import FLAG_SEAL_FULL, KIND_DATA
from shmprotocol.kernel.constants import MIB
from shmprotocol.wire.messages import Create, Publish
from shmprotocol.wire.names import ChangeKind, Seal

pytest.importorskip("blake3", reason="the extra `fleet` is not installed")

OWNER = Peer(7, 70)


class Meanwhile(Threads):
    """Threads that something happens before: `event`, once, when they are called for the `after`-th time."""

    def __init__(self, event: Callable[[], object], after: int) -> None:
        super().__init__()
        self._event = event
        self._left = after

    async def run(self, call: Callable[..., Any], *arguments: object) -> Any:
        self._left -= 1
        if not self._left:
            self._event()
        return await super().run(call, *arguments)


class World:
    """The registry of a host that exports `models/`, and what it announces."""

    def __init__(self, event: Callable[[World], object], after: int) -> None:
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
        threads = Meanwhile(lambda: event(self), after)
        self.exports = Exports(
            self.registry,
            allocator,
            ("models/",),
            threads,
            self.news.append,
            lambda name, _: self.gone.append(name),
        )

    def put(self, seal: Seal = Seal.FULL, name: str = "models/x") -> Region:
        """Publish a region, as the registry says it to the exports."""
        registry = self.registry
        region = registry.create(Create(1, name, 100, seal.value, "memfd", 0o644, True), OWNER)
        region.kind, region.seal = KIND_DATA, seal
        region.object = Memfd(name, region.capacity)
        region.generation, region.created_ns = registry.next_generation(region), time.time_ns()
        publish = Publish(0, region.number, KIND_DATA, 100, 0, 0, 0, 0)
        header = header_of(region, publish, FLAG_SEAL_FULL, region.generation, region.created_ns)
        region.object.publish(header.pack(), Seal.FULL)
        registry.publish(region)
        self.exports.note(ChangeKind.PUBLISHED, region)
        return region

    def unlink(self) -> None:
        region = self.registry.current["models/x"]
        self.registry.hide(region)
        self.exports.note(ChangeKind.UNLINKED, region)

    def chmod(self) -> None:
        region = self.registry.current["models/x"]
        region.mode = 0o600
        self.exports.note(ChangeKind.CHANGED, region)


def hash_with(event: Callable[[World], object], after: int = 1) -> World:
    """Put a region, and have something happen while it is hashed."""

    async def run() -> World:
        world = World(event, after)
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


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce even the smallest region before it is hashed."""
    monkeypatch.setattr(exports, "EARLY_FROM", 1)


@pytest.mark.usefixtures("all_are_large")
def test_large_region_is_announced_before_it_is_hashed_and_found_by_both_announcements() -> None:
    answers: list[Any] = []

    def look(world: World) -> None:
        answers.append(world.exports.find("models/x", world.news[0].tree))
        world.exports.renamed = lambda *trees: answers.append(trees)

    world = hash_with(look, after=2)
    early, last = world.news
    assert (early.is_early, last.is_early) == (True, False)
    assert last.confirms(early)
    assert answers[0].leaves == []
    assert answers[1] == (early.tree, last.tree)
    for each in (early, last):
        export = world.exports.find("models/x", each.tree)
        assert export is not None
        assert (export.announcement, len(export.leaves)) == (last, 1)


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("event", [World.unlink, lambda world: world.put(Seal.WRITER)])
def test_region_that_is_gone_while_it_is_hashed_is_not_announced_with_its_hash(event: Any) -> None:
    world = hash_with(event, after=2)
    assert [each.is_early for each in world.news] == [True]
    assert world.gone == ["models/x"]
    assert world.exports.entries == {}
    assert [region.name for region in world.registry.regions.values() if region.leases] == []


@pytest.mark.usefixtures("all_are_large")
def test_generation_that_is_replaced_while_it_is_hashed_has_its_hash_before_the_next_one() -> None:
    world = hash_with(World.put, after=2)
    assert [(each.generation, each.is_early) for each in world.news] == [
        (1, True),
        (1, False),
        (2, True),
        (2, False),
    ]


@pytest.mark.usefixtures("all_are_large")
def test_mode_that_is_set_after_the_early_announcement_is_announced_with_the_hash() -> None:
    assert [(each.mode, each.is_early) for each in hash_with(World.chmod, after=2).news] == [
        (0o644, True),
        (0o600, True),
        (0o600, False),
    ]


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("error", [OSError("no memory"), RuntimeError("can't start new thread")])
def test_region_that_cannot_be_hashed_stays_announced_until_it_is_hashed(error: Exception) -> None:
    """Others would end their copies of older generations with it, and begin its transfer anew."""

    def fail(_: World) -> None:
        raise error

    async def run() -> World:
        world = World(fail, 2)
        world.put()
        await world.exports.hash_pending()
        assert [each.is_early for each in world.news] == [True]
        assert world.exports.beat()
        await world.exports.hash_pending()
        return world

    world = asyncio.run(run())
    early, again, last = world.news
    assert again == early
    assert last.confirms(early)
    assert world.gone == []
    assert [len(region.leases) for region in world.registry.regions.values()] == [1]


def test_region_is_hashed_only_as_long_as_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "AT_ONCE", 1)
    answers = [True, False]

    async def run() -> list[bytes]:
        with contextlib.closing(Memfd("large", 5 * MIB)) as memory_object:
            return await hash_all(Threads(), memory_object.reader(), 4 * MIB, lambda: answers.pop(0))

    assert len(asyncio.run(run())) == threads.THREADS
    assert answers == []


@pytest.mark.usefixtures("all_are_large")
def test_host_that_ends_while_it_hashes_ends_no_copy_of_an_older_generation() -> None:
    async def run() -> World:
        world = World(lambda _: task.cancel(), 2)
        world.put()
        task = asyncio.create_task(world.exports.hash_pending())
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        return world

    assert asyncio.run(run()).gone == []


def test_region_that_cannot_be_hashed_is_tried_again_and_keeps_none_from_being_announced(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def run() -> World:
        world = World(lambda _: fail(), 1)
        first = world.put()
        other = world.put(name="models/y")
        await world.exports.hash_pending()
        assert [each.name for each in world.news] == ["models/y"]
        assert [len(first.leases), len(other.leases)] == [0, 1]
        assert world.exports.beat()
        await world.exports.hash_pending()
        assert not world.exports.beat()
        return world

    assert [each.name for each in asyncio.run(run()).news] == ["models/y", "models/x"]
    assert "'models/x' is not announced yet, it is tried again: [Errno 24]" in caplog.text
