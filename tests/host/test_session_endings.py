"""Creations that end before they are published: aborted, unlinked, or their client is gone."""

from __future__ import annotations

import pytest

from session_support import CREATE, World
from shmprotocol.wire import messages as m


def test_abort_frees_name_and_keeps_address_when_creator_has_it_mapped(world: World) -> None:
    talk, other = world.client(), world.client()
    before = world.taken()
    created = talk.say(CREATE)
    creating = world.taken()
    for _ in range(2):  # the second has no further effect
        talk.say(m.Abort(0, created.region, True))
        assert world.taken() == creating
    other.say(m.Unlink(3, other.publish("x").grant.name))
    other.session.close()
    talk.say(m.Abort(0, created.region, False))
    assert world.taken() == before


def test_close_frees_address_of_mapped_abort(world: World) -> None:
    talk = world.client()
    before = world.taken()
    created = talk.say(CREATE)
    talk.say(m.Abort(0, created.region, True))
    talk.session.close()
    assert world.taken() == before


def test_publish_is_refused_when_creation_was_aborted(world: World) -> None:
    talk = world.client()
    created = talk.say(CREATE)
    talk.say(m.Abort(0, created.region, True))
    assert talk.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0)).code == "not-found"


@pytest.mark.parametrize("uid", [0, 7])
def test_unlink_ends_creation_for_owner_and_root(uid: int, world: World) -> None:
    talk, other = world.client(), world.client(uid=uid)
    created = talk.say(CREATE)
    assert other.say(m.Unlink(5, "x")) == m.Done(5)
    assert other.publish("x").grant.address != created.address
    reply = talk.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0))
    assert reply.code == "not-found"
    assert "shmhost rm" in reply.text
    assert other.say(m.Stat(4, "x")).info.generation == 1
    talk.say(m.Abort(0, created.region, False))
    assert len(world.hub.registry.regions) == 1


def test_unlink_of_creation_is_denied_to_others(world: World) -> None:
    talk, other = world.client(), world.client(uid=8)
    created = talk.say(CREATE._replace(mode=0o644))
    assert other.say(m.Unlink(5, "x")).code == "access-denied"
    assert isinstance(talk.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0)), m.Published)


def test_unlink_hides_current_region_and_leaves_its_replacement_pending(world: World) -> None:
    talk, other = world.client(), world.client()
    talk.publish("x")
    created = talk.say(CREATE)
    other.say(m.Unlink(5, "x"))
    assert isinstance(talk.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0)), m.Published)


@pytest.mark.parametrize("operation", ["create", "publish"])
def test_unlink_during_work_ends_creation(operation: str, world: World) -> None:
    """The thread still has the object: it is given back when the thread is done."""
    talk, other = world.client(), world.client()
    before = world.taken()
    request: m.Message = CREATE
    if operation == "publish":
        request = m.Publish(2, talk.say(CREATE).region, 1, 100, 0, 0, 0, 0)
    steps = talk.session.handle(request)
    assert steps is not None
    work = next(steps)
    other.say(m.Unlink(5, "x"))
    with pytest.raises(StopIteration):
        steps.send(work.call())
    assert talk.last().code == "not-found"
    talk.session.close()
    assert world.taken() == before


def test_abort_of_what_is_published_meanwhile_changes_nothing(world: World) -> None:
    talk = world.client()
    grant = talk.publish("x").grant
    talk.say(m.Abort(0, grant.region, False))
    assert isinstance(talk.say(m.Stat(4, "x")), m.Described)
