"""A reply whose descriptors the host cannot copy: a refusal, and nothing is taken."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from session_support import CREATE, Talk, World
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_DESCRIPTORS
from support import RawPeer, serve, wait_until

NAMES = tuple(f"shared/{number}" for number in range(MAX_DESCRIPTORS))
LIMIT = 256


def fail_next_reply(talk: Talk) -> None:
    """Make the next send of descriptors fail, as that of a full outbox without a free descriptor does."""
    send = talk.send

    def refuse(message: m.Message, fds: Sequence[int]) -> None:
        if fds:
            talk.send = send
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        send(message, fds)

    talk.send = refuse


def is_refusal(reply: Any) -> bool:
    return isinstance(reply, m.Refused) and reply.code == "out-of-memory" and "ulimit -n" in reply.text


def test_open_takes_no_lease_when_its_reply_cannot_be_sent(world: World) -> None:
    talk, other = world.client(), world.client()
    talk.publish("x")
    other.publish("y")
    fail_next_reply(talk)
    assert is_refusal(talk.say(m.Open(3, ("x", "y"), (), False)))
    assert {len(region.leases) for region in world.hub.registry.regions.values()} == {1}
    assert isinstance(talk.say(m.Open(4, ("x", "y"), (), False)), m.Opened)


def test_wait_is_refused_and_the_publisher_is_not_when_its_reply_cannot_be_sent(world: World) -> None:
    waiting, publisher = world.client(), world.client()
    waiting.say(m.Open(3, ("x",), (), True))
    fail_next_reply(waiting)
    publisher.publish("x")
    assert is_refusal(waiting.last())
    assert len(world.hub.registry.current["x"].leases) == 1


def test_create_takes_nothing_when_its_reply_cannot_be_sent(world: World) -> None:
    talk = world.client()
    before = world.taken()
    fail_next_reply(talk)
    assert is_refusal(talk.say(CREATE))
    assert world.taken() == before
    talk.publish("x")


def test_publish_leaves_the_older_generation_when_its_reply_cannot_be_sent(world: World) -> None:
    talk = world.client()
    older = talk.publish("x").grant
    before = world.taken()
    created = talk.say(CREATE)
    publish = m.Publish(2, created.region, 1, 100, 0, 0, 0, 0)
    fail_next_reply(talk)
    assert is_refusal(talk.say(publish))
    assert world.hub.registry.current["x"].number == older.region
    again = talk.say(publish)
    assert (again.code, "create it again" in again.text) == ("not-found", True)
    talk.say(m.Abort(5, created.region, False))
    assert world.taken() == before
    assert talk.publish("x").grant.generation > older.generation


def test_client_is_refused_and_not_dropped_when_host_cannot_queue_descriptors(tmp_path: Path) -> None:
    path = str(tmp_path / "h.sock")
    first = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}))"
    host = serve(Path(path), first)
    assert resource.prlimit(host.pid, resource.RLIMIT_NOFILE)[0] == LIMIT
    try:
        with RawPeer(path) as creator, RawPeer(path) as slow:
            for name in NAMES:
                creator_publishes(creator, name)
            number = 0
            while creator_publishes(creator, f"filling/{number}"):
                number += 1
            before = count_open(host.pid)
            slow.send(b"".join(pack(m.Open(request, NAMES, (), False)) for request in range(2, 12)))
            wait_until(
                lambda: count_requests(creator, "open") == 10
            )  # so that they meet a client that reads none
            codes = [answer(slow) for _ in range(10)]
            assert "out-of-memory" in codes
            assert codes[0] == "opened"
            assert answer_to(slow, m.Open(20, NAMES[:1], (), False)) == "opened"
            # A reply that waited goes out before its copies are closed.
            wait_until(lambda: count_open(host.pid) == before)
    finally:
        host.terminate()
        _, log = host.communicate(timeout=20)
    assert "dropped" not in log


def creator_publishes(peer: RawPeer, name: str) -> bool:
    created, fds = peer.ask(CREATE._replace(name=name))
    descriptors.close_all(fds)
    if not isinstance(created, m.Created):
        return False
    published, fds = peer.ask(m.Publish(2, created.region, 1, 100, 0, 0, 0, 0))
    descriptors.close_all(fds)
    return isinstance(published, m.Published)


def count_open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def count_requests(peer: RawPeer, operation: str) -> int:
    measured, _ = peer.ask(m.Measure(9))
    assert isinstance(measured, m.Measured)
    return sum(timing.requests for timing in measured.timings if timing.operation == operation)


def answer(peer: RawPeer) -> str:
    reply, fds = peer.receive()
    descriptors.close_all(fds)
    return reply.code if isinstance(reply, m.Refused) else type(reply).__name__.lower()


def answer_to(peer: RawPeer, request: m.Message) -> str:
    peer.send(pack(request))
    return answer(peer)
