"""One client's conversation, without a socket: messages in, replies out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from session_support import CREATE, World
from shmhost.core.interests import MAX_LISTENING
from shmhost.core.window import STEP
from shmhost.core.work import PAUSE
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_DESCRIPTORS


def test_first_message_must_be_hello(world: World) -> None:
    with pytest.raises(RemoteProtocolError, match="Stat arrived before Hello"):
        world.client(greet=False).say(m.Stat(1, "x"))


def test_hello_is_answered_with_the_windows(world: World) -> None:
    welcome = world.client().last()
    assert welcome == m.Welcome(1, m.VERSION, "host", ((1 << 40, 64 * STEP),), 7)


@pytest.mark.parametrize("versions", [(6, 9), (0, 0)])
def test_versions_that_do_not_meet_end_the_conversation(versions: tuple[int, int], world: World) -> None:
    with pytest.raises(RemoteProtocolError, match="speaks versions 1 to 5"):
        world.client(greet=False).say(m.Hello(1, *versions, "test"))


@pytest.mark.parametrize(("versions", "version"), [((1, 1), 1), ((1, 2), 2), ((2, 9), 5)])
def test_highest_version_that_both_speak_is_chosen(
    versions: tuple[int, int], version: int, world: World
) -> None:
    talk = world.client(greet=False)
    assert talk.say(m.Hello(1, *versions, "test")).version == version


def test_region_goes_from_create_to_unlink(world: World) -> None:
    talk = world.client()
    grant = talk.publish("x").grant
    assert (grant.name, grant.generation, grant.address) == ("x", 1, 1 << 40)
    opened = talk.say(m.Open(3, ("x",), (), False))
    assert [g.region for g in opened.grants] == [grant.region]
    assert len(talk.replies[-1][1]) == 1
    assert talk.say(m.Stat(4, "x")).info.leases == 2
    talk.say(m.Release(0, (grant.lease, opened.grants[0].lease)))
    assert talk.say(m.Unlink(5, "x")) == m.Done(5)
    assert world.hub.registry.regions == {}


def test_attach_by_its_bytes_grants_what_the_messages_would(world: World) -> None:
    talk, frames = world.client(), []
    x, y = talk.publish("x").grant, talk.publish("y").grant
    talk.say(m.Watch(9, ""))
    data = pack(m.Release(0, (x.lease,))) + pack(m.Open(5, ("y", "x"), (), False))
    done = talk.session.answer(data, lambda frame, fds: frames.append((frame, list(fds))))
    assert done == (1, "open")
    leases = [next(reversed(world.hub.registry.current[name].leases)) for name in ("y", "x")]
    want = m.Opened(5, (y._replace(lease=leases[0]), x._replace(lease=leases[1])))
    objects = [world.hub.registry.current[name].object for name in ("y", "x")]
    assert frames == [(pack(want), [each.reader() for each in objects if each is not None])]
    assert talk.say(m.Stat(6, "x")).info.leases == 1


def test_attach_with_the_number_of_a_wait_is_for_handle_to_refuse(world: World) -> None:
    talk, frames = world.client(), []
    talk.publish("x")
    talk.say(m.Open(5, ("later",), (), True))
    attach = partial(talk.session.answer, send_frame=lambda frame, _fds: frames.append(frame))
    assert attach(pack(m.Open(5, ("x",), (), False))) is None
    assert attach(pack(m.Open(6, ("x",), (), False))) == (0, "open")
    assert len(frames) == 1


def test_attach_of_what_its_mode_forbids_is_refused(world: World) -> None:
    world.client().publish("x")
    other = world.client(uid=8)
    assert other.session.answer(pack(m.Open(5, ("x",), (), False)), pytest.fail) == (0, "open")
    assert other.last().code == "not-found"


def test_attach_before_hello_is_for_handle_to_refuse(world: World) -> None:
    world.client().publish("x")
    talk = world.client(greet=False)
    assert talk.session.answer(pack(m.Open(5, ("x",), (), False)), pytest.fail) is None


def test_open_of_what_is_held_sends_no_descriptor_and_no_lease(world: World) -> None:
    talk = world.client()
    first, second = talk.publish("x").grant, talk.publish("y").grant
    opened = talk.say(m.Open(3, ("x", "y"), (first.region, 999), False))
    assert [grant.lease != 0 for grant in opened.grants] == [False, True]
    assert [grant.region for grant in opened.grants] == [first.region, second.region]
    assert len(talk.replies[-1][1]) == 1


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (m.Open(9, ("missing",), (), False), "not-found"),
        (m.Open(9, (), (), False), "invalid"),
        (m.Open(9, ("x",) * 65, (), False), "invalid"),
        (m.Open(9, ("x",), (1, 2), False), "invalid"),
        (m.Open(9, ("../x",), (), True), "invalid"),
        (m.Stat(9, "missing"), "not-found"),
        (m.Stat(9, ""), "invalid"),
        (m.Unlink(9, "missing"), "not-found"),
        (m.Chmod(9, "x", 0o1000), "invalid"),
        (m.Publish(9, 77, 1, 0, 0, 0, 0, 0), "invalid"),
        (CREATE._replace(id=9, size=0), "invalid"),
        (CREATE._replace(id=9, size=1 << 62), "quota-exceeded"),
        (CREATE._replace(id=9, seal="none"), "invalid"),
        (CREATE._replace(id=9, backend="disk"), "invalid"),
        (CREATE._replace(id=9, mode=0o10000), "invalid"),
        (CREATE._replace(id=9, name="x", replace=False), "exists"),
    ],
)
def test_request_is_refused_with_its_code(request_: m.Message, code: str, world: World) -> None:
    talk = world.client()
    talk.publish("x")
    reply = talk.say(request_)
    assert isinstance(reply, m.Refused)
    assert (reply.id, reply.code) == (9, code)
    assert isinstance(talk.say(m.Stat(10, "x")), m.Described)


def test_wait_is_answered_when_all_names_are_there(world: World) -> None:
    waiter, publisher = world.client(), world.client()
    waiter.say(m.Open(5, ("x", "y"), (), True))
    publisher.publish("x")
    assert isinstance(waiter.last(), m.Welcome)
    publisher.publish("y")
    assert [grant.name for grant in waiter.last().grants] == ["x", "y"]
    assert len(waiter.replies) == 2


def test_cancelled_wait_gets_its_one_reply(world: World) -> None:
    waiter, publisher = world.client(), world.client()
    waiter.say(m.Open(5, ("x",), (), True))
    assert waiter.say(m.Cancel(0, 5)).code == "cancelled"
    publisher.publish("x")
    waiter.say(m.Cancel(0, 5))  # crossed with the reply: no error
    assert len(waiter.replies) == 2
    assert world.hub.listeners == set()


def test_watch_gets_events_of_its_prefix_until_it_is_cancelled(world: World) -> None:
    watcher, publisher = world.client(), world.client()
    assert watcher.say(m.Watch(6, "a/")) == m.Done(6)
    publisher.publish("a/x")
    publisher.publish("b/x")
    publisher.say(m.Unlink(7, "a/x"))
    assert [(e.id, e.kind, e.info.name) for e, _ in watcher.replies[2:]] == [
        (6, "published", "a/x"),
        (6, "unlinked", "a/x"),
    ]
    watcher.say(m.Cancel(0, 6))
    publisher.publish("a/x")
    assert len(watcher.replies) == 4


def test_waits_and_watches_have_a_limit(world: World) -> None:
    talk = world.client()
    for number in range(MAX_LISTENING):
        talk.say(m.Watch(100 + number, ""))
    assert talk.say(m.Watch(99, "")).code == "quota-exceeded"
    assert talk.say(m.Open(98, ("never",), (), True)).code == "quota-exceeded"
    talk.say(m.Cancel(0, 100))
    assert talk.say(m.Watch(99, "")) == m.Done(99)


def test_wait_counts_for_as_many_as_it_has_names(world: World) -> None:
    talk, names = world.client(), tuple(f"never/{number}" for number in range(MAX_DESCRIPTORS))
    for number in range(MAX_LISTENING // len(names) - 1):
        talk.say(m.Open(100 + number, names, (), True))
    talk.say(m.Open(98, names[1:], (), True))
    assert talk.say(m.Open(99, ("a", "b"), (), True)).code == "quota-exceeded"
    talk.say(m.Open(99, ("a",), (), True))
    assert talk.say(m.Watch(97, "")).code == "quota-exceeded"
    world.client().publish("a")
    assert talk.say(m.Watch(97, "")) == m.Done(97)


def test_refusal_that_says_who_has_how_much_follows_a_pause(world: World) -> None:
    talk = world.client()
    steps = talk.session.handle(CREATE._replace(size=1 << 40))
    assert steps is not None
    before = len(talk.replies)
    assert next(steps) is PAUSE
    assert len(talk.replies) == before
    assert list(steps) == []
    assert talk.last().code == "quota-exceeded"


def test_open_of_many_is_done_in_parts_while_there_are_other_users(world: World) -> None:
    talk = world.client()
    talk.publish("a")
    request = pack(m.Open(3, ("a",) * MAX_DESCRIPTORS, (), False))
    done = talk.session.answer(request, lambda _frame, _fds: None)
    assert done == (0, "open")
    _other = world.client(uid=8)
    done = talk.session.answer(request, lambda _frame, _fds: None)
    assert done is not None
    assert len(done) == 3
    assert list(done[2]) == [PAUSE]


def test_leases_of_a_connection_have_a_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmhost.core.leases.MAX_LEASES", 3)
    talk = world.client()
    grant = talk.publish("x").grant
    assert isinstance(talk.say(m.Open(5, ("x", "x"), (), False)), m.Opened)
    refused = talk.say(m.Open(6, ("x",), (), False))
    assert (refused.code, talk.say(m.Stat(7, "x")).info.leases) == ("quota-exceeded", 3)
    talk.say(m.Release(0, (grant.lease,)))
    assert isinstance(talk.say(m.Open(8, ("x",), (), False)), m.Opened)


@pytest.mark.parametrize("text", ["x" * 256, "\u00e9" * 128])
@pytest.mark.parametrize(
    "ask",
    [
        lambda text: m.List(5, text, ""),
        lambda text: m.List(5, "", text),
        lambda text: m.Inspect(5, text, 0),
        lambda text: m.Watch(5, text),
        lambda text: m.Stat(5, text),
        lambda text: m.Open(5, (text,), (), True),
        lambda text: m.Create(5, text, 1, "full", "memfd", 0o600, True),
    ],
)
def test_text_is_refused_when_it_is_longer_than_a_name(ask: Any, text: str, world: World) -> None:
    talk = world.client()
    assert talk.say(ask(text)).code == "invalid"
    talk.replies.clear()
    assert getattr(talk.say(ask(text[:-1])), "code", "") != "invalid"


@pytest.mark.parametrize("message", [m.Watch(6, ""), m.Open(6, ("never",), (), True)])
def test_request_id_is_not_used_twice_at_a_time(message: m.Message, world: World) -> None:
    talk = world.client()
    talk.say(message)
    with pytest.raises(RemoteProtocolError, match="6 is in use"):
        talk.say(message)


def test_foreign_lease_is_not_released(world: World) -> None:
    owner, thief = world.client(), world.client()
    grant = owner.publish("x").grant
    with pytest.raises(RemoteProtocolError, match="not held"):
        thief.say(m.Release(0, (grant.lease,)))
    assert owner.say(m.Stat(4, "x")).info.leases == 1


def test_close_gives_everything_back(world: World) -> None:
    talk, other = world.client(), world.client()
    talk.publish("x")
    talk.say(CREATE._replace(name="half made"))
    talk.say(m.Open(5, ("never",), (), True))
    talk.say(m.Watch(6, ""))
    talk.session.close()
    info = other.say(m.Stat(4, "x")).info
    assert info.leases == 0
    assert list(world.hub.registry.regions) == [info.region]
    assert world.hub.listeners == set()
