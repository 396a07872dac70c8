"""What one user learns of the names of another: of those that it may not read, nothing."""

from __future__ import annotations

from typing import Any

import pytest

from session_support import CREATE, Talk, World
from shmhost.core.listing import MAX_LOOKS, MAX_PAGE
from shmhost.core.window import Allocator
from shmprotocol.wire import messages as m

OTHER = 8
REQUESTS = (
    m.Stat(5, "secret"),
    m.Open(5, ("secret",), (), False),
    m.Unlink(5, "secret"),
    m.Chmod(5, "secret", 0o600),
    m.List(5, "", ""),
    m.Inspect(5, "", 0),
    m.Survey(5, 1, 0, 0),
)


def publish(talk: Talk, name: str, mode: int) -> None:
    created = talk.say(CREATE._replace(name=name, mode=mode))
    talk.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0))
    assert any(isinstance(reply, m.Published) for reply, _ in talk.replies[-2:])  # an Event may follow


def events(talk: Talk) -> list[tuple[str, str]]:
    return [(each.kind, each.info.name) for each, _ in talk.replies if isinstance(each, m.Event)]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_answer_is_the_same_whether_a_hidden_name_exists_or_not(world: World, request_: Any) -> None:
    other = world.client(uid=OTHER)
    before = other.say(request_)
    owner = world.client()
    owner.say(CREATE._replace(name="secret"))
    assert other.say(request_) == before
    publish(owner, "secret2", 0o600)
    owner.say(m.Publish(2, 1, 1, 100, 0, 0, 0, 0))
    assert owner.say(m.Stat(5, "secret")).info.name == "secret"
    assert other.say(request_) == before


def test_new_name_is_refused_alike_for_all_that_is_hidden(world: World) -> None:
    owner, other = world.client(), world.client(uid=OTHER)
    owner.say(CREATE._replace(name="being created"))
    publish(owner, "published", 0o600)
    refusals = [
        other.say(CREATE._replace(name=name, replace=replace))
        for name in ("being created", "published")
        for replace in (False, True)
    ]
    assert {refusal.code for refusal in refusals} == {"access-denied"}
    assert {refusal.text.replace("being created", "published") for refusal in refusals} == {
        "uid 8 may not create 'published': another user has it; choose another name"
    }


def test_name_that_may_be_written_and_not_read_is_replaced(world: World) -> None:
    publish(world.client(), "x", 0o620)
    other = world.client(uid=OTHER)
    assert other.say(m.Stat(5, "x")).code == "not-found"
    assert isinstance(other.say(CREATE), m.Created)


def test_owner_without_the_right_to_read_sees_its_own(world: World) -> None:
    talk = world.client()
    publish(talk, "x", 0o000)
    assert talk.say(m.Stat(5, "x")).info.mode == 0
    assert [info.name for info in talk.say(m.List(5, "", "")).regions] == ["x"]
    assert talk.say(m.Open(5, ("x",), (), False)).code == "access-denied"


def test_lists_are_sorted_and_complete_without_what_is_hidden(world: World) -> None:
    """Hidden names lie in between, more than are looked at in one go."""
    owner, other = world.client(), world.client(uid=OTHER)
    world.hub.registry.allocator = Allocator(((1 << 40, 1 << 40),))
    names = [f"{number:04}" for number in range(2 * MAX_LOOKS + 3 * MAX_PAGE)]
    seen = names[::9]
    for name in names:
        publish(owner, name, 0o644 if name in seen else 0o600)
    pages: list[list[str]] = []
    more, after = True, ""
    while more:
        listed = other.say(m.List(5, "", after))
        pages.append([info.name for info in listed.regions])
        more, after = listed.more, pages[-1][-1]
    assert [name for page in pages for name in page] == seen
    assert [len(page) for page in pages[:-1]] == [MAX_PAGE] * (len(pages) - 1)
    assert [info.name for info in other.say(m.List(5, "00", names[8])).regions][:2] == ["0009", "0018"]


def test_watches_hear_of_what_their_client_may_read(world: World) -> None:
    owner, other, root = world.client(), world.client(uid=OTHER), world.client(uid=0)
    for talk in (owner, other, root):
        talk.say(m.Watch(4, ""))
    publish(owner, "x", 0o600)
    owner.say(m.Unlink(5, "x"))
    assert events(owner) == events(root) == [("published", "x"), ("unlinked", "x")]
    assert events(other) == []


def test_name_comes_and_goes_with_the_right_to_read_it(world: World) -> None:
    owner, other = world.client(), world.client(uid=OTHER)
    other.say(m.Watch(4, ""))
    publish(owner, "x", 0o600)
    steps = {
        0o644: "published",  # by chmod
        0o664: "changed",
        0o600: "unlinked",
    }
    for mode, kind in steps.items():
        owner.say(m.Chmod(5, "x", mode))
        assert events(other)[-1:] == [(kind, "x")]
    gone = other.last()
    assert (gone.info.mode, gone.info.state) == (0o664, "unlinked")  # what it was when it could be seen
    publish(owner, "x", 0o644)
    publish(owner, "x", 0o600)
    assert events(other)[-2:] == [("published", "x"), ("unlinked", "x")]
    assert len(events(other)) == 5


def test_wait_for_a_hidden_name_ends_when_it_may_be_read(world: World) -> None:
    owner, other = world.client(), world.client(uid=OTHER)
    publish(owner, "x", 0o600)
    other.say(m.Open(6, ("x",), (), True))
    publish(owner, "x", 0o600)
    assert isinstance(other.last(), m.Welcome)
    owner.say(m.Chmod(5, "x", 0o644))
    assert isinstance(other.last(), m.Opened)
