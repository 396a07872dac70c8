"""Inspections are packed piece by piece, and say what a message in one piece would."""

from __future__ import annotations

import pytest
from test_registry import OTHER, OWNER, World

from shmhost.core import inspecting
from shmhost.core.inspecting import LOOKS, REGIONS, SLICE, Inspection
from shmhost.core.peers import Peer
from shmhost.core.window import STEP
from shmhost.core.work import PAUSE
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack


@pytest.fixture
def world() -> World:
    return World(size=256 * STEP)


def inspect(world: World, peer: Peer = OWNER, prefix: str = "", after: int = 0) -> tuple[m.Inspected, int]:
    """Return the answer, and how often there was a pause before it."""
    sent: list[m.Message] = []
    request = m.Inspect(5, prefix, after)
    steps = list(Inspection(world.registry, peer, request, lambda message, _: sent.append(message)).steps())
    assert all(step is PAUSE for step in steps)
    connection = Connection("client")
    connection.receive(pack(sent[0]))
    ((answer, _),) = connection.messages()
    assert isinstance(answer, m.Inspected)
    return answer, len(steps)


def test_answer_is_the_message_that_pack_makes(world: World) -> None:
    regions = [world.publish(name) for name in ("a/1", "b/1", "a/2")]
    numbers = [world.registry.lease(regions[2], OTHER) for _ in range(20)]
    since = [since_ns for _, since_ns in regions[2].leases.values()]
    holders = tuple(map(m.Holder, numbers, [OTHER.uid] * 20, [OTHER.gid] * 20, [0] * 20, since))
    want = (m.Inspection(regions[0].info(), ()), m.Inspection(regions[2].info(), holders))
    assert inspect(world, prefix="a/") == (m.Inspected(5, want, False), 2)
    assert inspect(world, prefix="a/", after=regions[0].number)[0].regions == want[1:]
    assert inspect(world, prefix="c") == (m.Inspected(5, (), False), 0)


def test_answers_come_in_pages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspecting, "MAX_INSPECTED", 2)
    regions = [world.publish(name) for name in ("a", "b", "c")]
    first, second = inspect(world)[0], inspect(world, after=regions[1].number)[0]
    assert ([each.info.name for each in first.regions], first.more) == (["a", "b"], True)
    assert ([each.info.name for each in second.regions], second.more) == (["c"], False)


def test_a_page_ends_before_the_region_whose_holders_are_too_many(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "MAX_HOLDERS", 3)
    for name, leases in (("a", 2), ("b", 2), ("c", 5)):
        region = world.publish(name)
        for _ in range(leases):
            world.registry.lease(region, OTHER)
    pages = [inspect(world, after=number)[0] for number in (0, 1, 2)]
    assert [[len(each.holders) for each in page.regions] for page in pages] == [[2], [2], [3]]
    assert [page.more for page in pages] == [True, True, False]
    assert pages[2].regions[0].info.leases == 5


def test_there_is_a_pause_for_each_slice_of_regions_of_looks_and_of_holders(world: World) -> None:
    regions = [world.publish(f"{number}") for number in range(2 * REGIONS)]
    assert inspect(world)[1] == 2
    for _ in range(3 * SLICE):
        world.registry.lease(regions[0], OTHER)
    assert inspect(world)[1] == 2 + 3
    for number in range(LOOKS):
        world.publish(f"more/{number}")
    assert inspect(world, prefix="none") == (m.Inspected(5, (), False), 1)


def test_region_that_a_peer_may_not_read_is_left_out(world: World) -> None:
    world.publish("secret", mode=0o600)
    world.publish("open", mode=0o644)
    assert [each.info.name for each in inspect(world, OTHER)[0].regions] == ["open"]
