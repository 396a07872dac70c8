"""The client against hosts that break the rules: a clear error, and nothing leaks."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shmclient
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.names import MAX_FRAME
from support import count_descriptors, wait_until

GRANT = m.Grant(1, 1, 1, "x", 0x550000000000, 5000, 8192, 1)
Answer = Callable[[socket.socket, m.Message], None]


class FakeHost:
    """A host that greets properly and then answers as it is told."""

    def __init__(self, path: str, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        connection = Connection("host")
        with client:
            while data := descriptors.receive(client)[0]:
                connection.receive(data)
                for message, _ in connection.messages():
                    if isinstance(message, m.Hello):
                        client.sendall(pack(m.Welcome(message.id, 1, "fake", (), 0)))
                    else:
                        self._answer(client, message)
                        return

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def connect_to(tmp_path: Path) -> Iterator[Callable[[Answer], shmclient.Client]]:
    before = count_descriptors()
    started: list[tuple[FakeHost, shmclient.Client]] = []

    def connect(answer: Answer) -> shmclient.Client:
        host = FakeHost(str(tmp_path / "fake.sock"), answer)
        client = shmclient.connect(tmp_path / "fake.sock", timeout=5)
        started.append((host, client))
        return client

    yield connect
    for host, client in started:
        client.close()
        host.close()
    started.clear()
    wait_until(lambda: count_descriptors() == before)


def send_with_descriptor(client: socket.socket, message: m.Message) -> None:
    descriptor = os.memfd_create("fake")
    descriptors.send(client, pack(message), [descriptor], 0)
    os.close(descriptor)


BROKEN = shmclient.RemoteProtocolError
ANSWERS: dict[str, tuple[Answer, type[shmclient.ShmError], str]] = {
    "garbage": (lambda s, _: s.sendall(b"\xff" * 64), BROKEN, f"over {MAX_FRAME}"),
    "half a frame": (lambda s, q: s.sendall(pack(m.Done(q.id))[:5]), shmclient.HostGone, "closed"),
    "the end": (lambda s, q: None, shmclient.HostGone, "closed the connection"),
    "goodbye": (
        lambda s, q: s.sendall(pack(m.Goodbye(0, "too loud"))),
        BROKEN,
        "too loud",
    ),
    "a request": (lambda s, q: s.sendall(pack(m.Stat(q.id, "x"))), BROKEN, "unknown"),
    "another reply": (
        lambda s, q: s.sendall(pack(m.Done(q.id))),
        BROKEN,
        "instead of Opened",
    ),
    "too many grants": (
        lambda s, q: s.sendall(pack(m.Opened(q.id, (GRANT._replace(lease=0),) * 2))),
        BROKEN,
        "2 grants arrived for 1",
    ),
    "a reply to nobody": (
        lambda s, q: send_with_descriptor(s, m.Opened(q.id + 1000, (GRANT,))),
        BROKEN,
        "answers no request",
    ),
    "a descriptor that is missing": (
        lambda s, q: s.sendall(pack(m.Opened(q.id, (GRANT,)))),
        BROKEN,
        "declares 1 descriptors, but 0 arrived",
    ),
    "a descriptor too many": (
        lambda s, q: send_with_descriptor(s, m.Event(99, "published", INFO)),
        BROKEN,
        "no frame declares",
    ),
    "what is no region": (
        lambda s, q: send_with_descriptor(s, m.Opened(q.id, (GRANT,))),
        shmclient.BadRegion,
        "not sealed",
    ),
    "an unknown refusal": (
        lambda s, q: s.sendall(pack(m.Refused(q.id, "new-code", "for reasons of the future"))),
        shmclient.ShmError,
        "reasons of the future",
    ),
}
INFO = m.RegionInfo("x", 1, 1, "current", 0, 0, 0, 0, 0, 0, "full", "memfd", 0, 0, 0)


@pytest.mark.parametrize("what", ANSWERS)
def test_client_says_what_is_wrong_when_a_host_answers_with(
    what: str, connect_to: Callable[[Answer], shmclient.Client]
) -> None:
    answer, error, match = ANSWERS[what]
    client = connect_to(answer)
    with pytest.raises(error, match=match):
        client.open("x")
