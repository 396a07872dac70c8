"""One client's conversation, without a socket: messages in, replies out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from shmhost.core.accounts import Budget
from shmhost.core.hub import Hub
from shmhost.core.interests import MAX_LISTENING
from shmhost.core.objects import Memfd
from shmhost.core.peers import Peer
from shmhost.core.registry import Registry
from shmhost.core.session import Session
from shmhost.core.window import STEP, Allocator
from shmhost.core.work import Work
from shmhost.serving.sealing import Sealers
from shmhost.serving.workers import attempt
from shmprotocol.errors import RemoteProtocolError
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_DESCRIPTORS

CREATE = m.Create(1, "x", 100, "full", "memfd", 0o600, True)


class World:
    """A hub without a server: Work is done at once."""

    def __init__(self) -> None:
        clock = itertools.count(1)
        registry = Registry(
            Allocator(((1 << 40, 64 * STEP),)),
            Budget(1 << 30),
            lambda: next(clock),
            lambda memory_object: memory_object.close(),
        )
        self.hub = Hub(registry, "host", lambda _backend, name, capacity: Memfd(name, capacity))
        self.sealers: Sealers | None = None

    def taken(self) -> tuple[int, int]:
        """Return the bytes charged and the free addresses."""
        registry = self.hub.registry
        return registry.budget.used, registry.allocator.windows[0].free()

    def client(self, *, greet: bool = True, uid: int = 7) -> Talk:
        talk = Talk(self.hub, uid, self.sealers)
        if greet:
            talk.say(m.Hello(1, m.VERSION, m.VERSION, "test"))
        return talk


class Talk:
    def __init__(self, hub: Hub, uid: int, sealers: Sealers | None = None) -> None:
        self._sealers = sealers
        self.replies: list[tuple[m.Message, Sequence[int]]] = []
        self.session = Session(hub, Peer(uid, 70), lambda message, fds: self.send(message, fds))

    def send(self, message: m.Message, descriptors: Sequence[int]) -> None:
        self.replies.append((message, descriptors))

    def say(self, message: m.Message) -> Any:
        """Have a message handled, its Work too; return the last reply there is."""
        steps = self.session.handle(message)
        if steps is not None:
            try:
                work = next(steps)
                while True:
                    result, error = attempt(partial(self._do, work))
                    work = steps.send(result) if error is None else steps.throw(error)
            except StopIteration:
                pass
        return self.last()

    def _do(self, work: Work) -> Any:
        if work.sealing is None or self._sealers is None:
            return work.call()
        said = self._sealers.seal(7, work.sealing)
        return said() if callable(said) else said

    def last(self) -> Any:
        return self.replies[-1][0] if self.replies else None

    def publish(self, name: str) -> m.Published:
        created = self.say(CREATE._replace(name=name))
        published = self.say(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0))
        assert isinstance(published, m.Published)
        return published


@pytest.fixture
def world() -> Any:
    world = World()
    yield world
    world.hub.registry.close()


def test_first_message_must_be_hello(world: World) -> None:
    with pytest.raises(RemoteProtocolError, match="Stat arrived before Hello"):
        world.client(greet=False).say(m.Stat(1, "x"))


def test_hello_is_answered_with_the_windows(world: World) -> None:
    welcome = world.client().last()
    assert welcome == m.Welcome(1, m.VERSION, "host", ((1 << 40, 64 * STEP),), 7)


@pytest.mark.parametrize("versions", [(4, 9), (0, 0)])
def test_versions_that_do_not_meet_end_the_conversation(versions: tuple[int, int], world: World) -> None:
    with pytest.raises(RemoteProtocolError, match="speaks versions 1 to 3"):
        world.client(greet=False).say(m.Hello(1, *versions, "test"))


@pytest.mark.parametrize(("versions", "version"), [((1, 1), 1), ((1, 2), 2), ((2, 9), 3)])
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
    assert other.last().code == "access-denied"


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
    created = talk.say(CREATE)
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
