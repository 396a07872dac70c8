"""A small value that comes with its request: one region, published at once, or a refusal and nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from test_replies import fail_next_reply, is_refusal

from session_support import CREATE, World
from shmhost.core.registry import REGION_OVERHEAD
from shmprotocol.abi.header import HEADER_SIZE, check_header
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from support import count_descriptors

PUT = m.Put(5, "x", 0o640, True, 3, 8, 2, b"abc\0\0\0\0\0\x81\x01")
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


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
    world.hub.registry.accounts.bytes.total = 2 * HEADER_SIZE + REGION_OVERHEAD + spare
    assert type(world.client().say(PUT)) is kind


def test_put_leaves_the_older_generation_when_its_reply_cannot_be_sent(world: World) -> None:
    talk = world.client()
    older = talk.say(PUT).grant
    before = world.taken(), count_descriptors()
    fail_next_reply(talk)
    assert is_refusal(talk.say(PUT))
    assert (world.taken(), count_descriptors()) == before
    assert talk.say(m.Stat(6, "x")).info.region == older.region


@contextmanager
def limited(resource_: int, soft: int) -> Iterator[None]:
    """Lower a limit of this process for a while."""
    before = resource.getrlimit(resource_)
    resource.setrlimit(resource_, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource_, before)


@pytest.mark.parametrize("room", [0, 1])  # for the descriptor that writes, and for the one that reads
def test_put_is_refused_when_no_descriptor_is_left(room: int, world: World) -> None:
    talk = world.client()
    before = world.taken(), count_descriptors()
    free = os.dup(0)
    os.close(free)
    with limited(resource.RLIMIT_NOFILE, free + room):
        reply = talk.say(PUT)
    assert (reply.code, "ulimit -n" in reply.text) == ("out-of-memory", True)
    assert (world.taken(), count_descriptors()) == before
    assert isinstance(talk.say(PUT), m.Published)


def test_put_is_refused_when_files_may_not_be_so_large(world: World) -> None:
    talk = world.client()
    before = world.taken(), count_descriptors()
    with limited(resource.RLIMIT_FSIZE, 4096):
        reply = talk.say(PUT)
    assert (reply.code, "ulimit -f" in reply.text) == ("out-of-memory", True)
    assert (world.taken(), count_descriptors()) == before


# --- without the codec


class Frames(list[tuple[bytes, tuple[int, ...]]]):
    """What a session sends without the codec, with copies of the descriptors' numbers."""

    def send(self, frame: bytes, descriptors: Sequence[int]) -> None:
        self.append((frame, tuple(descriptors)))


def test_frames_of_a_put_are_answered_as_its_message_is(world: World) -> None:
    talk, frames = world.client(), Frames()
    older = talk.say(PUT).grant
    data = pack(m.Release(0, (older.lease,))) + pack(PUT)
    assert talk.session.answer(data, frames.send) == (1, "put")
    ((frame, (descriptor,)),) = frames
    connection = Connection("client")
    connection.receive(frame, [descriptor])
    ((reply, _),) = connection.messages()
    assert isinstance(reply, m.Published)
    assert (reply.id, reply.grant.generation, reply.spares) == (PUT.id, 2, ())
    assert os.pread(descriptor, 8192, HEADER_SIZE).rstrip(b"\0") == PUT.payload
    assert list(world.hub.registry.regions) == [reply.grant.region]


def test_frames_of_a_refused_put_release_and_are_refused(world: World) -> None:
    talk, frames = world.client(), Frames()
    older = talk.say(PUT).grant
    data = pack(m.Release(0, (older.lease,))) + pack(PUT._replace(replace=False))
    assert talk.session.answer(data, frames.send) == (1, "put")
    assert (frames, talk.last().code) == ([], "exists")
    assert talk.say(m.Stat(6, "x")).info.leases == 0


def test_frames_of_a_put_are_left_alone_when_the_budget_is_short(world: World) -> None:
    talk, frames = world.client(), Frames()
    world.hub.registry.accounts.bytes.total = 2 * HEADER_SIZE + REGION_OVERHEAD - 1
    assert talk.session.answer(pack(PUT), frames.send) is None
    assert frames == []


def test_frames_of_a_put_are_left_alone_before_hello(world: World) -> None:
    assert world.client(greet=False).session.answer(pack(PUT), Frames().send) is None


def test_put_that_cannot_be_answered_leaves_nothing(world: World) -> None:
    talk = world.client()
    older = talk.say(PUT).grant
    before = world.taken(), count_descriptors()

    def fail(_frame: bytes, _descriptors: Sequence[int]) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert talk.session.answer(pack(PUT), fail) == (0, "put")
    assert is_refusal(talk.last())
    assert (world.taken(), count_descriptors()) == before
    assert talk.say(m.Stat(6, "x")).info.region == older.region
