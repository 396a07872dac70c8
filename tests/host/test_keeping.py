"""What the host keeps for references on their way: counted, charged, bounded, and ended in time."""

from __future__ import annotations

import pytest
from test_registry import World

from shmhost.core import keeping as module
from shmhost.core.keeping import KEPT_S, Keeping
from shmhost.core.peers import Peer
from shmhost.core.regions import Region
from shmhost.core.registry import Registry
from shmprotocol.errors import QuotaExceeded
from shmprotocol.wire.names import State

SENDER, OTHER = Peer(8, 80, 800), Peer(9, 90, 900)


class Kept(Keeping):
    """A Keeping with a clock of its own."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry)
        self.now_s = 0
        self.clock = lambda: self.now_s * 10**9


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def keeping(world: World) -> Kept:
    return Kept(world.registry)


@pytest.fixture
def region(world: World) -> Region:
    return world.publish("x")


def leases_of(world: World, peer: Peer) -> int:
    return world.registry.accounts.of(peer.uid).leases.used


def test_region_is_kept_until_as_many_arrived_as_were_sent(
    world: World, keeping: Kept, region: Region
) -> None:
    for _ in range(3):
        keeping.keep(region, SENDER)
    world.registry.unlink("x", region.owner)
    for _ in range(2):
        keeping.take(region, SENDER.uid)
    assert (len(region.leases), leases_of(world, SENDER)) == (1, 1)
    keeping.take(region, SENDER.uid)
    assert (region.state, len(keeping), leases_of(world, SENDER)) == (State.FREED, 0, 0)
    keeping.take(region, SENDER.uid)  # read again: nothing happens


def test_each_user_has_its_own(world: World, keeping: Kept, region: Region) -> None:
    keeping.keep(region, SENDER)
    keeping.keep(region, OTHER)
    keeping.take(region, OTHER.uid)
    keeping.take(region, OTHER.uid)
    assert (leases_of(world, SENDER), leases_of(world, OTHER), len(region.leases)) == (1, 0, 1)


def test_time_begins_anew_with_each_reference(world: World, keeping: Kept, region: Region) -> None:
    other = world.publish("other")
    for each in (region, other, region):
        keeping.keep(each, SENDER)
        keeping.now_s += 1
    assert keeping.next_end_ns() == (KEPT_S + 1) * 10**9
    keeping.now_s = KEPT_S + 1
    assert len(list(keeping.expiring())) == 1
    assert (len(other.leases), len(region.leases)) == (0, 1)
    keeping.now_s += 1
    list(keeping.expiring())
    assert (len(keeping), len(region.leases), keeping.next_end_ns()) == (0, 0, None)


def test_user_has_so_many_and_no_more(
    world: World, keeping: Kept, monkeypatch: pytest.MonkeyPatch, region: Region
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    others = [world.publish(name) for name in "ab"]
    keeping.keep(region, SENDER)
    keeping.keep(others[0], SENDER)
    with pytest.raises(QuotaExceeded, match="at most 2 regions"):
        keeping.keep(others[1], SENDER)
    keeping.keep(region, SENDER)  # again
    keeping.keep(others[1], OTHER)
    assert (leases_of(world, SENDER), len(others[1].leases)) == (2, 1)


def test_user_without_leases_is_refused_and_nothing_is_taken(
    world: World, keeping: Kept, region: Region
) -> None:
    share = world.registry.accounts.of(SENDER.uid).leases
    share.restrict(0, "a rule")
    with pytest.raises(QuotaExceeded, match="a rule"):
        keeping.keep(region, SENDER)
    assert (len(keeping), region.leases, keeping._counts) == (0, {}, {})


def test_successor_goes_on(world: World, keeping: Kept, region: Region) -> None:
    keeping.keep(region, SENDER)
    keeping.keep(region, SENDER)
    records = keeping.record()
    lease, since = next(iter(region.leases.items()))
    region.leases.clear()
    region.tally.leases = 0
    world.registry.accounts.of(SENDER.uid).leases.give(1)
    successor = Kept(world.registry)
    successor.resume(records)
    assert (region.leases, region.tally.leases, leases_of(world, SENDER)) == ({lease: since}, 1, 1)
    assert successor.record() == records
    successor.now_s = KEPT_S
    list(successor.expiring())
    assert (region.leases, leases_of(world, SENDER)) == ({}, 0)
