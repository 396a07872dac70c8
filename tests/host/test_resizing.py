"""Regions that grow, as the core of the host sees them: who may, how far, and what is charged."""

from __future__ import annotations

import os

import pytest

from session_support import CREATE, Talk, World
from settings_support import policy_of
from shmhost.core.objects import Memfd
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.core.window import STEP
from shmhost.machine.growing_memory import GrowingMemfd
from shmprotocol.abi.header import FLAG_GROWS, HEADER_SIZE, KIND_DATA, PAGE
from shmprotocol.wire import messages as m

MAX = 3 * STEP  # of the payload, in the tests below
GROWING = CREATE._replace(size=PAGE, seal="writer", max_size=MAX, mode=0o644)


@pytest.fixture
def world() -> World:
    world = World()
    world.hub.make_object = lambda _backend, name, capacity, grows=False: (GrowingMemfd if grows else Memfd)(
        name, capacity
    )
    return world


def made(talk: Talk, request: m.Create = GROWING) -> m.Grant:
    """Publish a region that can grow; return its creator's grant."""
    created = talk.say(request)
    assert isinstance(created, m.Created), created
    size = created.capacity - HEADER_SIZE
    published = talk.say(m.Publish(2, created.region, KIND_DATA, size, 0, 0, 0, 0))
    assert isinstance(published, m.Published), published
    return published.grant


def test_grant_says_what_is_to_be_mapped_and_what_is_there(world: World) -> None:
    talk = world.client()
    grant = made(talk)
    assert (grant.size, grant.capacity, bool(grant.flags & FLAG_GROWS)) == (PAGE, MAX + PAGE, True)
    assert isinstance(talk.say(m.Resize(3, grant.region, STEP)), m.Done)
    (again,) = talk.say(m.Open(4, ("x",), (), False)).grants
    assert (again.size, again.capacity, again.address) == (STEP, MAX + PAGE, grant.address)
    info = talk.say(m.Stat(5, "x")).info
    assert (info.size, info.capacity) == (STEP, STEP + PAGE)


def test_addresses_of_max_size_are_taken_and_bytes_as_they_come(world: World) -> None:
    talk = world.client()
    _, free = world.taken()
    grant = made(talk)
    assert world.taken() == (2 * PAGE + REGION_OVERHEAD, free - 4 * STEP)
    for size in (PAGE + 1, STEP, MAX):
        assert isinstance(talk.say(m.Resize(3, grant.region, size)), m.Done)
        assert world.taken() == (-(-size // PAGE) * PAGE + PAGE + REGION_OVERHEAD, free - 4 * STEP)
    talk.say(m.Unlink(4, "x"))
    talk.say(m.Release(0, (grant.lease,)))
    assert world.taken() == (0, free)
    assert world.hub.registry.accounts.in_use().get(7, ())[8:9] in ((), (0,))  # addresses


def test_limit_of_bytes_is_kept_to_the_byte(world: World) -> None:
    talk = world.client(uid=1000)
    grant = made(talk)
    limit = 5 * PAGE + REGION_OVERHEAD
    world.hub.registry.accounts.restrict(policy_of(f"[[limits]]\nbytes = {limit}"))
    assert talk.say(m.Resize(3, grant.region, 4 * PAGE + 1)).code == "quota-exceeded"
    assert talk.say(m.Stat(4, "x")).info.size == PAGE
    assert isinstance(talk.say(m.Resize(5, grant.region, 4 * PAGE)), m.Done)


def test_limit_of_addresses_is_that_of_max_size(world: World) -> None:
    talk = world.client(uid=1000)
    world.hub.registry.accounts.restrict(policy_of(f"[[limits]]\naddresses = {MAX - PAGE}"))
    assert talk.say(GROWING._replace(max_size=MAX + 1)).code == "quota-exceeded"
    assert world.taken()[0] == 0
    made(talk)


def test_policy_counts_max_size(world: World) -> None:
    talk = world.client(uid=1000)
    world.hub.registry.accounts.restrict(policy_of(f"[[names]]\nsize = {MAX}"))
    assert talk.say(GROWING._replace(max_size=MAX + 1)).code == "quota-exceeded"
    made(talk)


@pytest.mark.parametrize(("size", "is_charged"), [(STEP - PAGE, False), (STEP, True), (2 * STEP, True)])
def test_object_that_is_larger_already_is_charged_as_it_is(size: int, is_charged: bool, world: World) -> None:
    """A thread of a host before may have made it larger, which that one did not wait for."""
    talk = world.client()
    grant = made(talk)
    before, _ = world.taken()
    memory_object = world.hub.registry.regions[grant.region].object
    assert memory_object is not None
    os.ftruncate(memory_object.writer(), STEP + HEADER_SIZE)
    reply = talk.say(m.Resize(3, grant.region, size))
    assert isinstance(reply, m.Done) is is_charged, reply
    assert world.taken()[0] == (size + HEADER_SIZE + REGION_OVERHEAD if is_charged else before)


@pytest.mark.parametrize("size", [MAX + 1, 2**63, 2**64 - 1])
def test_size_over_max_size_is_refused(world: World, size: int) -> None:
    talk = world.client()
    grant = made(talk)
    assert talk.say(m.Resize(3, grant.region, size)).code == "invalid"
    assert talk.say(m.Stat(4, "x")).info.size == PAGE


def test_owner_alone_has_it_grow(world: World) -> None:
    owner, other = world.client(uid=1000), world.client(uid=2000)
    grant = made(owner)
    assert other.say(m.Resize(3, grant.region, STEP)).code == "access-denied"
    owner.say(m.Chmod(4, "x", 0o600))
    assert other.say(m.Resize(5, grant.region, STEP)).code == "not-found"  # as if it did not exist
    assert other.say(m.Resize(6, 12345, STEP)).code == "not-found"
    assert isinstance(world.client(uid=0).say(m.Resize(7, grant.region, STEP)), m.Done)


def test_region_without_max_size_keeps_its_size(world: World) -> None:
    talk = world.client()
    grant = made(talk, GROWING._replace(max_size=0))
    assert not grant.flags & FLAG_GROWS
    assert talk.say(m.Resize(3, grant.region, STEP)).code == "invalid"


def test_region_that_is_replaced_or_unpublished_does_not_grow(world: World) -> None:
    talk = world.client()
    first = made(talk)
    created = talk.say(GROWING)
    assert talk.say(m.Resize(3, created.region, STEP)).code == "not-found"
    talk.say(m.Publish(2, created.region, KIND_DATA, PAGE, 0, 0, 0, 0))
    assert talk.say(m.Resize(3, first.region, STEP)).code == "not-found"


@pytest.mark.parametrize(
    "wrong",
    [
        {"seal": "full"},
        {"backend": "shm"},
        {"max_size": PAGE - 1},
        {"max_size": 2**63},
        {"max_size": 2**64 - 1},
    ],
)
def test_creation_that_cannot_grow_is_refused(world: World, wrong: dict[str, object]) -> None:
    talk = world.client()
    assert talk.say(GROWING._replace(**wrong)).code in ("invalid", "quota-exceeded")  # type: ignore[arg-type]
    assert world.taken()[0] == 0


def test_data_is_all_of_the_payload(world: World) -> None:
    talk = world.client()
    created = talk.say(GROWING)
    assert talk.say(m.Publish(2, created.region, KIND_DATA, PAGE - 1, 0, 0, 0, 0)).code == "invalid"


def test_older_clients_are_told_why_they_get_none(world: World) -> None:
    made(world.client())
    old = world.client(greet=False)
    old.say(m.Hello(1, 1, 4, "old"))
    assert old.say(m.Open(2, ("x",), (), False)).code == "unsupported"
