"""Filled spares that are published at once by a sealer: the reply, the books, the refusals."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from test_replies import is_refusal
from test_sealing import blocked_write
from test_small_puts import BoardWorld

from session_support import CREATE, Talk
from shmhost.core.spares import IN_SLICE
from shmhost.core.work import Steps
from shmhost.serving.sealing import Sealers
from shmprotocol.abi.header import HEADER_SIZE, check_header
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from support import count_descriptors

SIZE = 3 * 4096  # of a payload that fills its pages
CAPACITY = SIZE + HEADER_SIZE
PUBLISH = m.Publish(2, 0, 1, 100, 0, 0, 0, 0, (SIZE,))


@pytest.fixture
def world() -> Iterator[BoardWorld]:
    world = BoardWorld()
    world.hub.spare_max = 10 * CAPACITY
    world.hub.sealers = Sealers(lambda _lane: True)
    world.hub.sealers.wait_ns = 20_000_000_000
    yield world
    world.hub.registry.close()
    world.board.close()


@pytest.fixture
def talk(world: BoardWorld) -> Talk:
    return world.client()


def spare_of(talk: Talk, name: str = "x", size: int = SIZE) -> tuple[m.Assign, int]:
    """Publish a name; return an Assign to replace it, by the spare that came along, and its descriptor."""
    created = talk.say(CREATE._replace(name=name))
    published = talk.say(PUBLISH._replace(region=created.region, spares=(size,)))
    descriptor = os.dup(talk.replies[-1][1][1])
    talk.say(m.Release(0, (published.grant.lease,)))
    return m.Assign(5, published.spares[0].region, name, 0o640, True, SIZE, 100, 8, 3, ()), descriptor


def answer(
    talk: Talk, request: m.Assign, *released: int, send: Callable[..., None] | None = None
) -> tuple[m.Published | None, list[int], Steps | None]:
    """Put by frames; return the reply, its descriptors, and what is left."""
    frames: list[tuple[bytes, list[int]]] = []
    data = pack(m.Release(0, released)) if released else b""
    done = talk.session.answer(
        data + pack(request), send or (lambda frame, fds, *_: frames.append((frame, list(fds))))
    )
    assert done is not None
    assert done[:2] == (int(bool(released)), "assign")
    if not frames:
        return None, [], done[2] if len(done) == 3 else None
    connection = Connection("client")
    connection.receive(frames[0][0], frames[0][1].copy())
    ((reply, _),) = connection.messages()
    assert isinstance(reply, m.Published)
    return reply, frames[0][1], None


@pytest.mark.parametrize("size", [1, 4096, SIZE])
def test_spare_replaces_a_region(size: int, world: BoardWorld, talk: Talk) -> None:
    request, descriptor = spare_of(talk)
    os.pwrite(descriptor, b"filled", HEADER_SIZE)
    request = request._replace(size=size, data_size=1, metadata=0, metadata_size=1, spares=(SIZE,))
    reply, (reader, writer), _ = answer(talk, request)
    assert reply is not None
    header = check_header(os.pread(reader, HEADER_SIZE, 0), os.fstat(reader).st_size)
    grant = reply.grant
    assert os.pread(reader, 1, HEADER_SIZE) == b"f"
    assert os.fstat(reader).st_size == header.capacity == grant.capacity == (size + 8191) // 4096 * 4096
    assert (header.name, header.generation, header.data_size) == ("x", grant.generation, 1)
    assert (header.size, header.metadata, header.metadata_size) == (HEADER_SIZE + size, header.data, 1)
    assert (header.creator_uid, header.creator_gid, header.flags) == (7, 70, grant.flags)
    assert fcntl.fcntl(reader, fcntl.F_GET_SEALS) & 0xF == 0xF
    region = world.hub.registry.current["x"]
    assert (region.number, region.generation, region.mode) == (request.region, 2, 0o640)
    assert grant == region.grant(grant.lease)
    assert header.created_ns == region.created_ns
    assert os.fstat(writer).st_size == reply.spares[0].capacity == CAPACITY
    world.check()
    assert world.line(region.line) == (region.number, 2)
    os.close(descriptor)


def test_puts_follow_each_other_by_the_spare_of_the_last(world: BoardWorld, talk: Talk) -> None:
    request, descriptor = spare_of(talk)
    os.close(descriptor)
    before, released = count_descriptors(), tuple[int, ...]()
    for generation in range(2, 9):
        reply, _, _ = answer(talk, request._replace(spares=(SIZE,)), *released)
        assert reply is not None
        assert reply.grant.generation == generation
        request, released = request._replace(region=reply.spares[0].region), (reply.grant.lease,)
        world.check()
    assert count_descriptors() == before


def test_older_region_stays_while_it_is_mapped(world: BoardWorld, talk: Talk) -> None:
    request, descriptor = spare_of(talk)
    opened = talk.say(m.Open(9, ("x",), (), False))
    assert answer(talk, request)[0] is not None
    world.check()
    assert len(world.hub.registry.regions) == 2
    talk.say(m.Release(0, (opened.grants[0].lease,)))
    assert len(world.hub.registry.regions) == 1
    world.check()
    os.close(descriptor)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "new"},
        {"region": 999},
        {"replace": False},
        {"mode": 0o1000},
        {"size": 0},
        {"size": SIZE + 1},
        {"data_size": SIZE + 1},
        {"metadata": SIZE, "metadata_size": 1},
        {"metadata_size": 1 << 40, "metadata": 0},
        {"spares": (SIZE,) * (IN_SLICE + 1)},
        {"name": "creating"},
        {"name": "stranger's"},
        {"name": "a/../b"},
    ],
)
def test_anything_else_is_left_alone(changes: dict[str, Any], world: BoardWorld, talk: Talk) -> None:
    other = world.client(uid=8)
    other.publish("stranger's")
    talk.publish("creating")
    talk.say(CREATE._replace(name="creating"))
    request, descriptor = spare_of(talk)
    taken = world.taken()
    assert talk.session.answer(pack(request._replace(**changes)), pytest.fail) is None
    assert world.taken() == taken
    world.check()
    os.close(descriptor)


def test_put_is_left_alone_while_a_sealing_of_its_user_takes_long(world: BoardWorld, talk: Talk) -> None:
    lanes: list[object] = []
    world.hub.sealers = Sealers(lambda lane: bool(lanes.append(lane)))
    request, descriptor = spare_of(talk)
    assert talk.session.answer(pack(request), pytest.fail) is None
    assert lanes == [(7, False)]
    os.close(descriptor)


@pytest.mark.parametrize("how", ["resized", "sealed", "mapped"])
def test_spare_is_gone_after_a_refusal(how: str, world: BoardWorld, talk: Talk) -> None:
    codes = {"resized": "invalid", "sealed": "invalid", "mapped": "busy"}
    request, descriptor = spare_of(talk)
    older, descriptors = world.hub.registry.current["x"], count_descriptors()
    if how == "resized":
        os.ftruncate(descriptor, 4096)
    elif how == "sealed":
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
    mapping = mmap.mmap(descriptor, CAPACITY) if how == "mapped" else None
    reply, _, left = answer(talk, request._replace(spares=(SIZE,)))
    assert (reply, left, talk.last().code) == (None, None, codes[how])
    assert world.hub.registry.current["x"] is older
    assert list(world.hub.registry.regions) == [older.number]
    if mapping is not None:
        mapping.close()  # which has a descriptor of its own
    assert count_descriptors() == descriptors - 2
    world.check()
    assert talk.session.answer(pack(request), pytest.fail) is None
    os.close(descriptor)


def test_nothing_is_published_when_the_reply_cannot_be_sent(world: BoardWorld, talk: Talk) -> None:
    def fail(_frame: bytes, _descriptors: Sequence[int], *_note: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    request, descriptor = spare_of(talk)
    older, descriptors = world.hub.registry.current["x"], count_descriptors()
    answer(talk, request._replace(spares=(SIZE,)), send=fail)
    assert is_refusal(talk.last())
    assert world.hub.registry.current["x"] is older
    assert list(world.hub.registry.regions) == [older.number]
    assert count_descriptors() == descriptors - 2
    world.check()
    talk.session.close()
    world.check()
    os.close(descriptor)


def test_long_sealing_goes_on_by_steps(world: BoardWorld, talk: Talk) -> None:
    assert isinstance(world.hub.sealers, Sealers)
    world.hub.sealers.wait_ns = 0
    request, descriptor = spare_of(talk)
    with blocked_write(descriptor):
        reply, _, left = answer(talk, request._replace(spares=(SIZE,)))
        assert reply is None
        assert left is not None
        work = next(left)
        assert not work.is_quick
        assert world.hub.registry.current["x"].generation == 1
        rival = world.client(uid=0)
        assert rival.say(CREATE).code == "busy"
    with pytest.raises(StopIteration):
        left.send(work.call())
    published = talk.last()
    assert isinstance(published, m.Published)
    assert (published.grant.region, published.grant.generation, len(published.spares)) == (
        request.region,
        2,
        1,
    )
    world.check()
    os.close(descriptor)


def test_long_sealing_that_fails_ends_the_spare(world: BoardWorld, talk: Talk) -> None:
    assert isinstance(world.hub.sealers, Sealers)
    world.hub.sealers.wait_ns = 0
    request, descriptor = spare_of(talk)
    os.ftruncate(descriptor, 8192)
    with blocked_write(descriptor):
        _, _, left = answer(talk, request)
        assert left is not None
        work = next(left)
    with pytest.raises(StopIteration):
        left.send(work.call())
    assert talk.last().code == "invalid"
    assert len(world.hub.registry.regions) == 1
    world.check()
    os.close(descriptor)
