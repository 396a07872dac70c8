"""What may lie below what, and how arenas and regions replace each other."""

from __future__ import annotations

import errno
import os

import pytest

from arena_support import SIZE, ArenaPeer, Board, stat
from shmprotocol.abi.header import KIND_ARENA, KIND_DATA
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m

pytestmark = pytest.mark.usefixtures("leaves_nothing")


# --- replaced


def test_arena_is_replaced_by_another_on_a_line_of_its_own(
    owner: ArenaPeer, reader: ArenaPeer, board: Board
) -> None:
    first = owner.publish()
    reader.open("camera")
    with_first = board.line(first.made.line).ledgers
    second = reader.make()
    assert second.made.generation > first.made.generation
    assert board.line(first.made.line).region == first.made.region
    assert second.ready() == 0
    assert (board.line(first.made.line).region, board.line(first.made.line).ledgers) == (0, with_first)
    assert board.line(second.made.line)[:2] == (second.made.region, second.made.generation)
    assert reader.open("camera").grants[0].region == second.made.region


def test_region_becomes_an_arena_and_the_arena_a_region(owner: ArenaPeer, board: Board) -> None:
    published = owner.put("camera")
    assert isinstance(published, m.Published)
    assert (stat(owner).kind, board.line(published.grant.line).region) == (KIND_DATA, published.grant.region)
    owned = owner.publish()
    assert (stat(owner).kind, stat(owner).seal, stat(owner).state) == (KIND_ARENA, "writer", "current")
    assert board.line(published.grant.line).region == 0
    again = owner.put("camera")
    assert isinstance(again, m.Published)
    assert again.grant.generation > owned.made.generation
    assert (board.line(owned.made.line).region, board.line(again.grant.line).region) == (
        0,
        again.grant.region,
    )
    assert owner.refusal(m.Arena(2, "camera", SIZE, 0, 0o600, False, True)).code == "exists"


def fill_spare(peer: ArenaPeer, name: str) -> m.Published:
    """Publish a value by a spare, which came with another one."""
    created, fds = peer.ask(m.Create(2, "first", 1, "full", "memfd", 0o600, True))
    descriptors.close_all(fds)
    assert isinstance(created, m.Created)
    published, fds = peer.ask(m.Publish(3, created.region, 1, 1, 0, 0, 0, 0, (100_000,)))
    assert isinstance(published, m.Published)
    os.pwrite(fds[1], b"x" * 100_000, 4096)
    spare = published.spares[0].region
    reply, more = peer.ask(m.Assign(4, spare, name, 0o600, True, 100_000, 100_000, 0, 0, ()))
    descriptors.close_all([*fds, *more])
    assert isinstance(reply, m.Published), reply
    return reply


def test_arena_is_replaced_by_a_filled_spare(owner: ArenaPeer, board: Board) -> None:
    owned = owner.publish()
    grant = fill_spare(owner, "camera").grant
    assert (board.line(owned.made.line).region, board.line(grant.line).region) == (0, grant.region)
    assert stat(owner).kind == KIND_DATA
    assert grant.generation > owned.made.generation
    again = fill_spare(owner, "camera").grant
    assert (again.line, stat(owner).kind) == (grant.line, KIND_DATA)


# --- names


def test_names_below_an_arena_are_its_owners(owner: ArenaPeer, reader: ArenaPeer) -> None:
    owned = owner.make("a/b")
    assert reader.put("a/b/c") == reader.refusal(m.Put(4, "a/b/c", 0o600, True, 1, 0, 0, b"x"))
    assert reader.refusal(m.Create(4, "a/b/c", 1, "full", "memfd", 0o600, True)).code == "busy"
    assert owned.ready() == 0
    refusal = reader.refusal(m.Create(4, "a/b/c/d", 1, "full", "memfd", 0o600, True))
    assert refusal.code == "exists"
    assert "the arena 'a/b'" in refusal.text
    assert reader.refusal(m.Arena(4, "a/b/c", SIZE, 0, 0o600, True, True)).code == "exists"
    assert reader.refusal(m.Arena(4, "a", SIZE, 0, 0o600, True, True)).code == "exists"
    assert isinstance(reader.put("a/bc"), m.Published)
    assert isinstance(reader.put("a/b-c"), m.Published)


def test_arena_is_refused_over_names_that_exist(owner: ArenaPeer, reader: ArenaPeer) -> None:
    reader.put("camera/front")
    refusal = owner.refusal(m.Arena(2, "camera", SIZE, 0, 0o600, True, True))
    assert refusal.code == "exists"
    assert "'camera/front' exists" in refusal.text
    reader.ask(m.Unlink(3, "camera/front"))
    owner.publish()


def test_region_that_was_being_made_below_does_not_come_into_an_arena(
    owner: ArenaPeer, reader: ArenaPeer
) -> None:
    created, fds = reader.ask(m.Create(2, "camera/front", 1, "full", "memfd", 0o600, True))
    descriptors.close_all(fds)
    assert isinstance(created, m.Created)
    owner.publish()
    refusal = reader.refusal(m.Publish(3, created.region, 1, 1, 0, 0, 0, 0))
    assert refusal.code == "exists"


def test_arena_that_was_being_made_does_not_come_over_a_region(owner: ArenaPeer, reader: ArenaPeer) -> None:
    created, fds = reader.ask(m.Create(2, "camera/front", 1, "full", "memfd", 0o600, True))
    assert isinstance(created, m.Created)
    owned = owner.make()
    published, grants = reader.ask(m.Publish(3, created.region, 1, 1, 0, 0, 0, 0))
    descriptors.close_all([*fds, *grants])
    assert isinstance(published, m.Published)
    assert owned.ready() == errno.EEXIST
    reader.ask(m.Unlink(3, "camera/front"))
    assert owned.ready() == 0
