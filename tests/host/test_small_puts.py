"""Small puts in one go: all that is counted stays what a count of the regions gives."""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_put import PUT, limited
from test_replies import is_refusal

from session_support import CREATE, Talk, World
from shmhost.core.registry import REGION_OVERHEAD
from shmhost.machine.board import make_board
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.kernel.board import LINE_SIZE, size_of
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.names import ChangeKind, State
from support import count_descriptors


class BoardWorld(World):
    """A world with a board of three lines."""

    def __init__(self) -> None:
        super().__init__()
        board = make_board(self.hub.registry.allocator, 3, 1)
        assert board is not None
        self.board = self.hub.registry.board = board
        self.notes: list[tuple[Any, int]] = []
        self.hub.registry.note = lambda kind, region: self.notes.append((kind, region.generation))

    def line(self, number: int) -> tuple[int, int]:
        """Return the region and the generation that a line of the board says."""
        offset = HEADER_SIZE + size_of(0) + number * LINE_SIZE
        return struct.unpack("<QQ", os.pread(self.board.reader(), 16, offset))  # type: ignore[return-value]

    def check(self) -> None:
        """Compare what is counted with the regions that there are."""
        registry = self.hub.registry
        regions = list(registry.regions.values())
        assert registry.accounts.bytes.used == sum(region.capacity + REGION_OVERHEAD for region in regions)
        assert registry.order == sorted(registry.regions)
        assert registry.names == sorted(registry.current)
        states = Counter(region.state for region in regions)
        assert {state: total[0] for state, total in registry.tallies.states().items()} == states
        for state, (_, capacity, leases) in registry.tallies.states().items():
            some = [region for region in regions if region.state is state]
            assert capacity == sum(region.capacity for region in some)
            assert leases == sum(len(region.leases) for region in some)
        for region in registry.current.values():
            assert region.line == 0 or self.line(region.line) == (region.number, region.generation)
        spans = sorted(region.span for region in regions)
        assert all(a.end <= b.address for a, b in itertools.pairwise(spans))
        used = sum(region.span.size for region in regions)
        window = registry.allocator.windows[0]
        assert window.free() + used + 2 * 1024**2 == window.size  # one step is the board's


@pytest.fixture
def world() -> Iterator[BoardWorld]:
    world = BoardWorld()
    yield world
    world.hub.registry.close()
    world.board.close()


def put(talk: Talk, request: m.Put, *released: int) -> m.Grant | None:
    """Put by frames; return the grant, or None for a refusal."""
    frames: list[tuple[bytes, list[int]]] = []
    data = pack(m.Release(0, released)) if released else b""
    done = talk.session.answer(data + pack(request), lambda frame, fds, *_: frames.append((frame, list(fds))))
    assert done == (int(bool(released)), "put")
    if not frames:
        return None
    connection = Connection("client")
    connection.receive(*frames[0])
    ((reply, _),) = connection.messages()
    assert isinstance(reply, m.Published)
    return reply.grant


ACTIONS = st.one_of(
    st.tuples(
        st.just("put"),
        st.sampled_from("abcde"),
        st.sampled_from((1, 4096, 4097, 12000)),
        st.sampled_from((7, 8)),
        st.booleans(),
    ),
    st.tuples(st.just("release"), st.integers(0, 20)),
    st.tuples(st.just("unlink"), st.sampled_from("abcde")),
    st.tuples(st.just("fail"), st.sampled_from("abcde"), st.sampled_from((1, 5000))),
)


@given(st.lists(ACTIONS, max_size=40))
def test_counts_are_right_after_any_puts(actions: list[tuple[Any, ...]]) -> None:
    world = BoardWorld()
    talks = {7: world.client(uid=7), 8: world.client(uid=8)}
    held: list[tuple[int, int]] = []
    for kind, *rest in actions:
        if kind == "put":
            name, size, uid, keep = rest
            grant = put(talks[uid], PUT._replace(name=name, mode=0o666, payload=bytes(size), metadata_size=0))
            assert (grant is None) == (PUT.data_size > size)
            held += [(uid, grant.lease)] if grant is not None else []
            if grant is not None and not keep:
                talks[uid].say(m.Release(0, (held.pop()[1],)))
        elif kind == "release" and held:
            uid, lease = held.pop(rest[0] % len(held))
            talks[uid].say(m.Release(0, (lease,)))
        elif kind == "unlink":
            talks[7].say(m.Unlink(3, rest[0]))
        elif kind == "fail":
            failing(
                talks[7], PUT._replace(name=rest[0], payload=bytes(rest[1]), data_size=1, metadata_size=0)
            )
        world.check()
    world.hub.registry.close()
    assert world.hub.registry.accounts.bytes.used == 0
    world.board.close()


def failing(talk: Talk, request: m.Put) -> None:
    """Put where no reply can be sent."""

    def fail(_frame: bytes, _descriptors: Sequence[int], *_note: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    assert talk.session.answer(pack(request), fail) == (0, "put")
    assert is_refusal(talk.last())


def test_put_says_on_the_board_what_is_current(world: BoardWorld) -> None:
    talk = world.client()
    first = put(talk, PUT)
    assert first is not None
    second = put(talk, PUT, first.lease)
    assert second is not None
    assert (second.line, second.generation) == (first.line, 2)
    assert world.line(second.line) == (second.region, 2)


@pytest.mark.parametrize("is_held", [True, False])
def test_put_that_cannot_be_answered_leaves_the_board_as_it_was(is_held: bool, world: BoardWorld) -> None:
    talk = world.client()
    older = put(talk, PUT)
    assert older is not None
    if not is_held:
        talk.say(m.Release(0, (older.lease,)))
    before = world.taken(), count_descriptors()
    failing(talk, PUT)
    assert world.line(older.line) == (older.region, older.generation)
    assert (world.taken(), count_descriptors()) == before
    world.check()


def test_first_put_that_cannot_be_answered_leaves_no_line(world: BoardWorld) -> None:
    talk = world.client()
    before = world.taken(), count_descriptors()
    failing(talk, PUT)
    assert (world.taken(), count_descriptors()) == before
    grants = [put(talk, PUT._replace(name=name)) for name in "abc"]
    assert sorted(grant.line for grant in grants if grant is not None) == [1, 2, 3]


def test_put_that_cannot_be_answered_leaves_the_line_empty_that_its_elder_did_not_get(
    world: BoardWorld,
) -> None:
    talk = world.client()
    grants = [put(talk, PUT._replace(name=name)) for name in "abcd"]
    assert all(grant is not None for grant in grants)
    leases = tuple(grant.lease for grant in grants if grant is not None)
    talk.say(m.Release(0, leases))
    talk.say(m.Unlink(5, "a"))
    failing(talk, PUT._replace(name="d"))
    assert [world.line(number)[0] > 0 for number in (1, 2, 3)] == [False, True, True]
    world.check()


@pytest.mark.parametrize("room", [0, 1])  # for the descriptor that writes, and for the one that reads
@pytest.mark.parametrize("is_new", [True, False])
def test_put_without_a_descriptor_is_refused_and_leaves_the_older_one(
    room: int, is_new: bool, world: BoardWorld
) -> None:
    talk = world.client()
    older = None if is_new else put(talk, PUT)
    if older is not None:
        talk.say(m.Release(0, (older.lease,)))
    before = world.taken(), count_descriptors()
    free = os.dup(0)
    os.close(free)
    with limited(7, free + room):  # RLIMIT_NOFILE
        assert put(talk, PUT) is None
    assert (talk.last().code, "ulimit -n" in talk.last().text) == ("out-of-memory", True)
    assert (world.taken(), count_descriptors()) == before
    world.check()
    assert put(talk, PUT) is not None


def test_replaced_region_that_nobody_has_is_freed_at_once(world: BoardWorld) -> None:
    talk = world.client()
    first = put(talk, PUT)
    assert first is not None
    open_before = count_descriptors()
    put(talk, PUT, first.lease)
    assert count_descriptors() == open_before
    published = ChangeKind.PUBLISHED
    assert world.notes == [(published, 1), (published, 2), (State.FREED, 1)]
    world.check()


def test_shared_region_leaves_nothing_to_the_put_that_replaces_it(world: BoardWorld) -> None:
    """The host has two descriptors of it, which are charged, and knows it as one that several may write."""
    talk, registry = world.client(), world.hub.registry
    files = registry.accounts.of(7).files
    before = files.used
    size = len(PUT.payload)
    created = talk.say(CREATE._replace(name=PUT.name, size=size, seal="shared"))
    published = talk.say(m.Publish(2, created.region, 1, size, 0, 0, 0, 0))
    assert (len(registry.shared), files.used) == (1, before + 2)
    assert put(talk, PUT, published.grant.lease) is not None
    assert (len(registry.shared), files.used) == (0, before + 1)
    world.check()


def test_replaced_region_that_somebody_has_stays_until_its_release(world: BoardWorld) -> None:
    talk = world.client()
    first, second = put(talk, PUT), put(talk, PUT)
    assert first is not None
    assert second is not None
    assert sorted(world.hub.registry.regions) == [first.region, second.region]
    talk.say(m.Release(0, (first.lease,)))
    assert list(world.hub.registry.regions) == [second.region]
    world.check()


def test_put_is_left_to_the_plain_road_while_its_name_is_created(world: BoardWorld) -> None:
    talk, other = world.client(), world.client()
    created = talk.say(CREATE)
    assert put(other, PUT) is None
    assert other.last().code == "busy"
    talk.say(m.Abort(0, created.region, False))
    assert put(other, PUT) is not None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"replace": False}, "exists"),
        ({"mode": 0o1000}, "invalid"),
        ({"data_size": 11}, "invalid"),
        ({"metadata": 9}, "invalid"),
        ({"metadata": 2**64 - 1}, "invalid"),
        ({"payload": b"", "data_size": 0, "metadata_size": 0}, "invalid"),
    ],
)
def test_put_that_is_wrong_gets_the_refusal_of_any_put(
    changes: dict[str, Any], code: str, world: BoardWorld
) -> None:
    talk = world.client()
    put(talk, PUT)
    assert put(talk, PUT._replace(**changes)) is None
    assert talk.last().code == code
    world.check()


def test_put_of_a_new_name_that_is_wrong_is_refused(world: BoardWorld) -> None:
    talk = world.client()
    assert put(talk, PUT._replace(name="../x")) is None
    assert talk.last().code == "invalid"
    world.check()


def test_stranger_does_not_replace_a_region(world: BoardWorld) -> None:
    owner, stranger = world.client(), world.client(uid=8)
    put(owner, PUT)
    assert put(stranger, PUT) is None
    assert stranger.last().code == "access-denied"
