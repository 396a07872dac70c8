"""The registry: rights, generations and leases, with objects that are only told when they are freed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmhost.core.accounts import Accounts
from shmhost.core.peers import Peer
from shmhost.core.regions import READ, WRITE, Region
from shmhost.core.registry import REGION_OVERHEAD, Registry
from shmhost.core.resources import Totals
from shmhost.core.window import STEP, Allocator
from shmprotocol.errors import AccessDenied, QuotaExceeded, RegionBusy, RegionExists, RegionNotFound
from shmprotocol.wire.messages import Create
from shmprotocol.wire.names import State

OWNER, GROUP, OTHER, ROOT = Peer(7, 70), Peer(8, 70), Peer(9, 90), Peer(0, 0)


class World:
    """A registry, and the objects that it disposed of."""

    def __init__(self, budget: int = 1 << 30, size: int = 64 * STEP) -> None:
        self.freed: list[Any] = []
        clock = itertools.count(1)
        self.registry = Registry(
            Allocator(((1 << 40, size),)),
            Accounts(Totals(budget), {0, 7}),
            lambda: next(clock),
            self.freed.append,
        )

    def create(self, name: str, peer: Peer = OWNER, **changes: Any) -> Region:
        request = Create(1, name, 100, "full", "memfd", 0o640, True)._replace(**changes)
        region = self.registry.create(request, peer)
        region.object = object()  # type: ignore[assignment]
        return region

    def publish(self, name: str, peer: Peer = OWNER, **changes: Any) -> Region:
        region = self.create(name, peer, **changes)
        region.generation = self.registry.next_generation(region)
        self.registry.publish(region)
        return region

    def take(self, step: str, name: str) -> None:
        """Do one step of a region's life to a name, if it can be done now."""
        registry = self.registry
        creation, region = registry.creating.get(name), registry.current.get(name)
        if step == "create" and creation is None:
            self.create(name)
        elif step == "publish" and creation is not None:
            creation.generation = registry.next_generation(creation)
            registry.publish(creation)
        elif step == "abandon" and creation is not None:
            registry.abandon(creation)
        elif step == "lease" and region is not None:
            registry.lease(region, OTHER)
        elif step == "unlink" and region is not None:
            registry.unlink(name, OWNER)
        elif step == "end":
            for old in [old for old in registry.regions.values() if old.name == name]:
                self.end(old)

    def end(self, region: Region) -> None:
        if not region.generation:
            self.registry.abort(region)
        for lease in list(region.leases):
            self.registry.release(region, lease)


STEPS = st.sampled_from(["create", "publish", "abandon", "lease", "unlink", "end"])


def counted(regions: Iterable[Region]) -> dict[State, tuple[int, int, int]]:
    table: dict[State, tuple[int, int, int]] = {}
    for region in regions:
        count, capacity, leases = table.get(region.state, (0, 0, 0))
        table[region.state] = (count + 1, capacity + region.capacity, leases + len(region.leases))
    return table


@given(st.lists(st.tuples(STEPS, st.sampled_from("ab"))))
def test_tallies_are_what_a_count_of_all_regions_gives(steps: list[tuple[str, str]]) -> None:
    world = World()
    registry = world.registry
    for step, name in steps:
        world.take(step, name)
        assert registry.tallies.states() == counted(registry.regions.values())
        assert sum(count for count, _ in registry.tallies.users().values()) == len(registry.regions)
    registry.close()
    assert (registry.tallies.states(), registry.tallies.users()) == ({}, {})


@pytest.mark.parametrize(
    ("mode", "peer", "reads", "writes"),
    [
        (0o600, OWNER, True, True),
        (0o000, OWNER, False, False),
        (0o660, GROUP, True, True),
        (0o640, GROUP, True, False),
        (0o606, GROUP, False, False),
        (0o666, OTHER, True, True),
        (0o660, OTHER, False, False),
        (0o604, OTHER, True, False),
        (0o000, ROOT, True, True),
        (0o040, Peer(9, 90, 0, frozenset({70})), True, False),
    ],
)
def test_mode_gives_rights_as_for_a_file(mode: int, peer: Peer, reads: bool, writes: bool) -> None:
    region = World().publish("x", mode=mode)
    assert (region.allows(peer, READ), region.allows(peer, WRITE)) == (reads, writes)


def test_new_generation_frees_the_old_one_when_nobody_has_it() -> None:
    world = World()
    old, new = world.publish("x"), world.publish("x")
    assert (old.generation, new.generation) == (1, 2)
    assert world.freed == [old.object]
    assert world.registry.find("x", OWNER) is new


def test_old_generation_is_freed_with_its_last_lease() -> None:
    world = World()
    old = world.publish("x")
    leases = [world.registry.lease(old, OTHER) for _ in range(2)]
    world.publish("x")
    world.registry.release(old, leases[0])
    assert world.freed == []
    world.registry.release(old, leases[1])
    assert world.freed == [old.object]


def test_unlinked_region_keeps_its_address_until_its_last_lease() -> None:
    world = World(size=STEP)
    region = world.publish("x")
    lease = world.registry.lease(region, OTHER)
    world.registry.unlink("x", OWNER)
    with pytest.raises(RegionNotFound):
        world.registry.find("x", OWNER)
    with pytest.raises(QuotaExceeded, match="window"):
        world.create("y")
    world.registry.release(region, lease)
    assert world.create("y").span == region.span


def test_aborted_creation_leaves_nothing() -> None:
    world = World()
    free = world.registry.allocator.windows[0].free()
    region = world.create("x")
    world.registry.abort(region)
    assert world.freed == [region.object]
    assert (world.registry.accounts.bytes.used, world.registry.allocator.windows[0].free()) == (0, free)
    assert not world.registry.regions


def test_name_is_busy_while_another_creates_it() -> None:
    world = World()
    first = world.create("x", mode=0o644)
    with pytest.raises(RegionBusy, match="uid 7"):
        world.create("x", OTHER)
    world.registry.abort(first)
    world.create("x", OTHER)


def test_replacing_takes_the_right_to_write() -> None:
    world = World()
    world.publish("x", mode=0o644)
    with pytest.raises(AccessDenied, match="uid 9 may not replace"):
        world.create("x", OTHER)
    with pytest.raises(RegionExists):
        world.create("x", OWNER, replace=False)
    with pytest.raises(AccessDenied):
        world.registry.unlink("x", OTHER)
    with pytest.raises(AccessDenied):
        world.registry.chmod("x", 0o666, OTHER)
    world.registry.chmod("x", 0o666, OWNER)
    assert world.publish("x", OTHER).owner == OTHER


def test_refused_creation_charges_nothing() -> None:
    world = World(budget=4 * 4096 + 2 * REGION_OVERHEAD - 1)
    world.publish("x")
    with pytest.raises(QuotaExceeded):
        world.create("y")
    assert world.registry.accounts.bytes.used == 2 * 4096 + REGION_OVERHEAD
    assert list(world.registry.creating) == []


def test_close_frees_everything() -> None:
    world = World()
    world.registry.lease(world.publish("x"), OTHER)
    world.create("y")
    world.registry.close()
    assert len(world.freed) == 2
    assert world.registry.accounts.bytes.used == 0


# --- addresses, where there are few


def narrow(count: int) -> World:
    """A world in which there are fewer addresses than descriptors."""
    world = World(size=count * STEP)
    totals = Totals(1 << 30, addresses=count * STEP, are_addresses_scarce=True)
    world.registry.accounts = Accounts(totals)
    for uid in (7, 9):
        world.registry.accounts.of(uid).connect(Peer(uid, uid))
    return world


def test_user_who_takes_all_addresses_leaves_others_theirs_where_they_are_scarce() -> None:
    world = narrow(128)
    for number in range(118):  # a guarantee is 2; there are root's, another's, and those of three newcomers
        world.publish(f"x/{number}")
    with pytest.raises(QuotaExceeded, match="2097152 bytes of addresses are over the share of uid 7"):
        world.create("more")
    other = world.create("y", OTHER), world.create("z", OTHER)
    world.registry.unlink("x/0", OWNER)
    world.create("more")
    for region in other:
        world.registry.abort(region)
    assert world.registry.accounts.of(9).addresses.used == 0


def test_addresses_are_not_counted_where_there_are_plenty() -> None:
    world = World()
    world.publish("x")
    assert world.registry.accounts.of(7).addresses.used == 0


# --- charges of what is superseded


def bytes_of(world: World, peer: Peer) -> int:
    return world.registry.accounts.of(peer.uid).bytes.used


def test_superseded_region_is_charged_to_the_reader_that_alone_keeps_it() -> None:
    world = World()
    older = world.publish("x")
    cost = bytes_of(world, OWNER)
    lease, root = world.registry.lease(older, OTHER), world.registry.lease(older, ROOT)
    world.publish("x")
    assert (bytes_of(world, OWNER), bytes_of(world, OTHER), bytes_of(world, ROOT)) == (cost, 0, cost)
    world.registry.release(older, root)
    assert (bytes_of(world, OTHER), bytes_of(world, ROOT)) == (cost, 0)
    world.registry.release(older, lease)
    assert bytes_of(world, OTHER) == 0


def test_superseded_region_is_charged_to_its_owner_as_long_as_a_process_of_that_keeps_it() -> None:
    world = World()
    older = world.publish("x")
    cost = bytes_of(world, OWNER)
    own, lease = world.registry.lease(older, OWNER), world.registry.lease(older, OTHER)
    world.publish("x")
    assert (bytes_of(world, OWNER), bytes_of(world, OTHER)) == (2 * cost, 0)
    world.registry.release(older, own)
    assert (bytes_of(world, OWNER), bytes_of(world, OTHER)) == (cost, cost)
    world.registry.release(older, lease)
    assert bytes_of(world, OTHER) == 0


def test_reader_of_a_current_region_is_charged_nothing() -> None:
    world = World()
    region = world.publish("x")
    lease = world.registry.lease(region, OTHER)
    assert bytes_of(world, OTHER) == 0
    world.registry.unlink("x", OWNER)
    assert bytes_of(world, OWNER) == 0
    world.registry.release(region, lease)
    assert world.registry.accounts.bytes.used == 0
