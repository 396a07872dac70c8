"""Spares of a client: made, named, given back, taken back. Each is charged to the byte, and none is left."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest
from test_replies import fail_next_reply, is_refusal

from session_support import CREATE, Talk, World
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.serving.sealing import Sealers
from shmprotocol.abi.header import HEADER_SIZE, check_header
from shmprotocol.errors import OutOfMemory
from shmprotocol.wire import messages as m
from support import count_descriptors

SIZE = 3 * 4096  # of a payload that fills its pages
CAPACITY = SIZE + HEADER_SIZE
PUBLISH = m.Publish(2, 0, 1, 100, 0, 0, 0, 0, (SIZE,))


@pytest.fixture(params=["worker", "sealer"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World()
    world.sealers = Sealers(lambda _lane: True) if request.param == "sealer" else None
    world.hub.spare_max = 10 * CAPACITY
    yield world
    world.hub.registry.close()


def spares(talk: Talk, *sizes: int, name: str = "x") -> tuple[m.Spare, ...]:
    """Return the spares that come with a publish, which is unlinked and released again."""
    created = talk.say(CREATE._replace(name=name))
    published = talk.say(PUBLISH._replace(region=created.region, spares=sizes))
    talk.say(m.Release(0, (published.grant.lease,)))
    talk.session.handle(m.Unlink(3, name))
    ahead: tuple[m.Spare, ...] = published.spares
    return ahead


def spare_of(talk: Talk, size: int = SIZE) -> tuple[m.Spare, int]:
    """Return a spare and a copy of its read-write descriptor."""
    created = talk.say(CREATE)
    published = talk.say(PUBLISH._replace(region=created.region, spares=(size,)))
    descriptor = os.dup(talk.replies[-1][1][1])
    talk.say(m.Release(0, (published.grant.lease,)))
    talk.session.handle(m.Unlink(3, "x"))
    return published.spares[0], descriptor


def assign(spare: m.Spare, **changes: Any) -> m.Assign:
    return m.Assign(5, spare.region, "y", 0o640, True, SIZE, 100, 0, 0, ())._replace(**changes)


def test_publish_brings_spares_that_are_charged(world: World) -> None:
    talk = world.client()
    before = world.taken()
    (spare,) = spares(talk, SIZE)
    assert spare.capacity == CAPACITY
    assert before[0] + CAPACITY + REGION_OVERHEAD == world.taken()[0]
    info = world.hub.registry.regions[spare.region].info()
    assert (info.state, info.name, info.region, info.capacity) == ("spare", "", spare.region, CAPACITY)
    talk.session.close()
    assert world.taken() == before


def test_spare_is_published_under_the_name_that_it_gets(world: World) -> None:
    talk = world.client()
    spare, descriptor = spare_of(talk)
    os.pwrite(descriptor, b"content", HEADER_SIZE)
    grant = talk.say(assign(spare)).grant
    (reader,) = talk.replies[-1][1]
    header = check_header(os.pread(reader, HEADER_SIZE, 0), CAPACITY)
    assert (header.name, header.base, header.data_size, header.capacity) == (
        "y",
        spare.address,
        100,
        CAPACITY,
    )
    assert os.pread(reader, 7, HEADER_SIZE) == b"content"
    assert (grant.region, grant.address, grant.capacity) == (spare.region, spare.address, CAPACITY)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"more", HEADER_SIZE)
    os.close(descriptor)


def test_spare_is_cut_to_the_size_that_is_used(world: World) -> None:
    talk = world.client()
    before = world.taken()[0]
    spare, descriptor = spare_of(talk)
    os.pwrite(descriptor, b"x" * SIZE, HEADER_SIZE)
    grant = talk.say(assign(spare, size=4097, data_size=4097)).grant
    assert grant.capacity == HEADER_SIZE + 8192 == os.fstat(descriptor).st_size
    assert world.taken()[0] == before + grant.capacity + REGION_OVERHEAD
    assert sum(size for _, size, _ in world.hub.registry.tallies.states().values()) == grant.capacity
    os.close(descriptor)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"size": SIZE + 1}, "invalid"),
        ({"size": 0}, "invalid"),
        ({"name": "../y"}, "invalid"),
        ({"mode": 0o1000}, "invalid"),
        ({"data_size": SIZE + 1}, "invalid"),
        ({"metadata": SIZE - 1, "metadata_size": 2}, "invalid"),
        ({"name": "taken", "replace": False}, "exists"),
        ({"name": "stranger's"}, "access-denied"),
        ({"name": "creating"}, "busy"),
    ],
)
def test_spare_is_gone_after_a_refusal(changes: dict[str, Any], code: str, world: World) -> None:
    talk, other = world.client(), world.client(uid=8)
    talk.publish("taken")
    other.publish("stranger's")
    other.say(CREATE._replace(name="creating", mode=0o644))
    before = world.taken()
    spare, descriptor = spare_of(talk)
    assert talk.say(assign(spare, **changes)).code == code
    assert world.taken() == before
    assert talk.say(assign(spare)).code == "not-found"
    os.close(descriptor)


def test_spare_whose_object_its_client_shrank_is_refused(world: World) -> None:
    talk = world.client()
    before = world.taken()
    spare, descriptor = spare_of(talk)
    os.ftruncate(descriptor, 4096)
    reply = talk.say(assign(spare))
    assert (reply.code, "changed the size" in reply.text) == ("invalid", True)
    assert world.taken() == before
    os.close(descriptor)


def test_spare_that_its_client_has_sealed_is_refused(world: World) -> None:
    talk = world.client()
    before = world.taken()
    spare, descriptor = spare_of(talk)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    assert talk.say(assign(spare)).code == "invalid"
    assert world.taken() == before
    os.close(descriptor)


def test_spare_with_a_writable_mapping_is_refused(world: World) -> None:
    talk = world.client()
    before = world.taken()
    spare, descriptor = spare_of(talk)
    with mmap.mmap(descriptor, CAPACITY):
        assert talk.say(assign(spare)).code == "busy"
    assert world.taken() == before
    os.close(descriptor)


def test_spare_whose_header_goes_elsewhere_is_refused(world: World) -> None:
    """O_APPEND, which the client sets on the description that the host writes through, moves it."""
    talk = world.client()
    spare, descriptor = spare_of(talk)
    os.ftruncate(descriptor, HEADER_SIZE)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_APPEND)
    assert talk.say(assign(spare, size=1)).code == "invalid"
    os.close(descriptor)


def test_spare_cannot_grow(world: World) -> None:
    _, descriptor = spare_of(world.client())
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, CAPACITY + 1)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", CAPACITY)
    os.close(descriptor)


def test_spare_of_another_connection_is_not_found(world: World) -> None:
    talk, other = world.client(), world.client()
    (spare,) = spares(talk, SIZE)
    assert other.say(assign(spare)).code == "not-found"
    other.say(m.Abort(0, spare.region, False))
    assert isinstance(talk.say(assign(spare)), m.Published)


def test_abort_gives_a_spare_back(world: World) -> None:
    talk = world.client()
    before = world.taken()
    (spare,) = spares(talk, SIZE)
    talk.say(m.Abort(0, spare.region, False))
    assert world.taken() == before
    assert talk.say(assign(spare)).code == "not-found"


@pytest.mark.parametrize(
    ("limit", "sizes", "count"),
    [
        (10 * CAPACITY, (SIZE,) * 10, 10),
        (10 * CAPACITY, (SIZE,) * 11, 10),
        (10 * CAPACITY - 1, (SIZE,) * 10, 9),
        (CAPACITY, (SIZE + 1,), 0),
        (CAPACITY, (0,), 0),
        (CAPACITY, (2**64 - 1,), 0),
        (0, (SIZE,), 0),
        (1 << 29, (1,) * 70, 63),
    ],
)
def test_connection_has_so_many_bytes_of_spares(
    limit: int, sizes: tuple[int, ...], count: int, world: World
) -> None:
    world.hub.spare_max = limit
    assert len(spares(world.client(), *sizes)) == count


def test_budget_limits_spares_and_never_the_publish(world: World) -> None:
    talk = world.client()
    world.hub.registry.accounts.bytes.total = 8192 + 2 * REGION_OVERHEAD + CAPACITY
    assert len(spares(talk, SIZE, SIZE)) == 1


def test_reserve_is_granted_up_to_the_limit_of_the_uid(world: World) -> None:
    world.hub.reserve_max = 100
    first, second, other = world.client(), world.client(), world.client(uid=8)
    assert first.say(m.Reserve(4, 60)) == m.Reserved(4, 60)
    assert second.say(m.Reserve(5, 2**64 - 1)) == m.Reserved(5, 40)
    assert other.say(m.Reserve(6, 100)) == m.Reserved(6, 100)
    assert first.say(m.Reserve(7, 10)) == m.Reserved(7, 10)
    assert second.say(m.Reserve(8, 90)) == m.Reserved(8, 90)
    second.session.close()
    assert first.say(m.Reserve(9, 100)) == m.Reserved(9, 100)
    for talk in (first, other):
        talk.session.close()
    assert not world.hub.reserved


def test_reserve_is_the_limit_of_its_connection(world: World) -> None:
    world.hub.reserve_max = 20 * CAPACITY
    talk = world.client()
    talk.say(m.Reserve(4, 20 * CAPACITY))
    assert len(spares(talk, *(SIZE,) * 30)) == 20


def test_publish_without_spares_keeps_nothing_when_its_reply_cannot_be_sent(world: World) -> None:
    talk = world.client()
    created = talk.say(CREATE)
    before = world.taken(), count_descriptors()
    fail_next_reply(talk)
    assert is_refusal(talk.say(PUBLISH._replace(region=created.region, spares=(SIZE, SIZE))))
    talk.say(m.Abort(0, created.region, False))
    assert world.taken()[0] == 0
    assert count_descriptors() < before[1]


def test_object_that_cannot_be_made_is_a_spare_less(world: World) -> None:
    talk = world.client()
    created = talk.say(CREATE)
    before = world.taken()
    limit = iter([True, False])
    make = world.hub.make_object

    def make_one(*arguments: Any) -> Any:
        if next(limit):
            return make(*arguments)
        raise OutOfMemory("no descriptor is left")

    world.hub.make_object = make_one
    reply = talk.say(PUBLISH._replace(region=created.region, spares=(SIZE, SIZE)))
    assert len(reply.spares) == len(talk.replies[-1][1]) - 1 == 1
    assert world.taken()[0] == before[0] + CAPACITY + REGION_OVERHEAD


def test_seals_of_a_spare_leave_the_host_its_own(world: World) -> None:
    _, descriptor = spare_of(world.client())
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & ~0x20 == fcntl.F_SEAL_GROW  # but F_SEAL_EXEC
    os.close(descriptor)
