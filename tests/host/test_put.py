"""A small value that comes with its request: one region, published at once, or a refusal and nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_replies import fail_next_reply, is_refusal
from test_session import CREATE, World

from shmhost.core.accounts import Budget
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.abi.header import HEADER_SIZE, check_header
from shmprotocol.wire import messages as m
from support import count_descriptors

PUT = m.Put(5, "x", 0o640, True, 3, 8, 2, b"abc\0\0\0\0\0\x81\x01")
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.hub.registry.close()


def test_put_publishes_a_sealed_region_of_its_payload(world: World) -> None:
    talk = world.client()
    grant = talk.say(PUT).grant
    (descriptor,) = talk.replies[-1][1]
    header = check_header(os.pread(descriptor, HEADER_SIZE, 0), grant.capacity)
    assert os.pread(descriptor, grant.capacity, HEADER_SIZE).rstrip(b"\0") == PUT.payload
    assert (grant.size, header.data_size, header.metadata_size) == (3, 3, 2)
    assert header.metadata == grant.address + HEADER_SIZE + 8
    assert (header.size, header.root, header.name) == (HEADER_SIZE + 10, 0, "x")
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
    info = talk.say(m.Stat(6, "x")).info
    assert (info.state, info.mode, info.leases, info.seal, info.generation) == (
        "current",
        0o640,
        1,
        "full",
        1,
    )


def test_put_replaces_the_older_generation_and_tells_who_watches(world: World) -> None:
    talk, watcher = world.client(), world.client()
    watcher.say(m.Watch(4, "x"))
    first = talk.say(PUT).grant
    second = talk.say(PUT).grant
    assert (first.generation, second.generation) == (1, 2)
    assert [reply.kind for reply, _ in watcher.replies if isinstance(reply, m.Event)] == ["published"] * 2
    assert talk.say(m.Stat(6, "x")).info.region == second.region
    talk.say(m.Release(0, (first.lease,)))
    assert list(world.hub.registry.regions) == [second.region]


def test_put_without_metadata_has_none(world: World) -> None:
    talk = world.client()
    talk.say(PUT._replace(data_size=10, metadata=0, metadata_size=0))
    (descriptor,) = talk.replies[-1][1]
    header = check_header(os.pread(descriptor, HEADER_SIZE, 0), 8192)
    assert (header.data_size, header.metadata, header.metadata_size) == (10, 0, 0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"payload": b""}, "at least 1 byte"),
        ({"name": "../x"}, "x"),
        ({"mode": 0o1000}, "mode"),
        ({"data_size": 11}, "data at .* is outside of the payload"),
        ({"data_size": 2**64 - 1}, "data at .* is outside of the payload"),
        ({"metadata": 9}, "metadata at .* is outside of the payload"),
        ({"metadata": 2**64 - 1}, "metadata at .* is outside of the payload"),
        ({"metadata_size": 3}, "metadata at .* is outside of the payload"),
    ],
)
def test_put_that_is_wrong_is_refused_and_takes_nothing(
    changes: dict[str, Any], text: str, world: World
) -> None:
    talk = world.client()
    before = world.taken(), count_descriptors()
    reply = talk.say(PUT._replace(**changes))
    assert (type(reply), reply.code) == (m.Refused, "invalid")
    assert re.search(text, reply.text)
    assert (world.taken(), count_descriptors()) == before
    assert isinstance(talk.say(PUT), m.Published)


def test_put_is_refused_while_its_name_is_created(world: World) -> None:
    talk, other = world.client(), world.client()
    created = talk.say(CREATE)
    assert other.say(PUT).code == "busy"
    talk.say(m.Abort(0, created.region, False))
    assert isinstance(other.say(PUT), m.Published)


def test_put_is_refused_when_it_may_not_replace(world: World) -> None:
    talk, stranger = world.client(), world.client(uid=8)
    talk.say(PUT)
    before = world.taken()
    assert talk.say(PUT._replace(replace=False)).code == "exists"
    assert stranger.say(PUT).code == "access-denied"
    assert world.taken() == before


@pytest.mark.parametrize(("spare", "kind"), [(0, m.Published), (-1, m.Refused)])
def test_put_is_charged_to_the_byte(spare: int, kind: type[m.Message], world: World) -> None:
    world.hub.registry.budget = Budget(2 * HEADER_SIZE + REGION_OVERHEAD + spare)
    assert type(world.client().say(PUT)) is kind


def test_put_leaves_the_older_generation_when_its_reply_cannot_be_sent(world: World) -> None:
    talk = world.client()
    older = talk.say(PUT).grant
    before = world.taken(), count_descriptors()
    fail_next_reply(talk)
    assert is_refusal(talk.say(PUT))
    assert (world.taken(), count_descriptors()) == before
    assert talk.say(m.Stat(6, "x")).info.region == older.region


class Failing:
    """Makes the call number `failing` of those that make an object fail; counts them."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls = self.failing = 0
        calls = {os: ("memfd_create", "ftruncate", "fchmod", "open", "pwritev"), fcntl: ("fcntl",)}
        for module, names in calls.items():
            for name in names:
                patch.setattr(module, name, self._wrapped(getattr(module, name)))

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any) -> Any:
            self.calls += 1
            if self.calls == self.failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args)

        return attempt


def test_each_step_that_fails_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    talk = world.client()
    failing = Failing(monkeypatch)
    before = world.taken(), count_descriptors()
    for step in range(1, 20):
        failing.calls, failing.failing = 0, step
        reply = talk.say(PUT)
        if isinstance(reply, m.Published):
            break
        assert (reply.code, "No space left" in reply.text) == ("out-of-memory", True)
        assert (world.taken(), count_descriptors()) == before
    assert step == failing.calls + 1 > 6
