"""What another user tries against a host, in the smallest way: refused or dropped, and nobody else notices.

Floods are in test_abuse_floods.py; what a user learns of names in test_rights.py and test_hidden_names.py;
files in /dev/shm in test_shm_names.py; the log in test_logs.py; shares in the tests of accounts.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmclient
from shmhost.serving import link, outbox
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import MAX_REQUEST, pack
from shmprotocol.wire.names import MAX_NAME
from support import RawPeer, WatchedHost, as_nobody, needs_root

pytestmark = needs_root


def beside(host: WatchedHost, attack: Callable[[], object]) -> None:
    """Attack as another user while a bystander attaches."""
    with shmclient.connect(host.socket_path) as shm, ThreadPoolExecutor(1) as pool:
        shm.put("own", b"1").close()
        result = pool.submit(as_nobody, attack)
        while not result.done():
            shm.open("own").close()
        assert result.result() == 0
        assert bytes(shm.get("own")) == b"1"


def test_prefix_that_is_longer_than_a_name_is_refused(open_host: WatchedHost) -> None:
    def attack() -> None:
        with RawPeer(open_host.socket_path) as peer:
            assert isinstance(peer.ask(m.Watch(2, "a" * MAX_NAME))[0], m.Done)
            for request in (m.Watch(3, "a" * (MAX_NAME + 1)), m.List(4, "a" * (MAX_NAME + 1), "")):
                refused, _ = peer.ask(request)
                assert isinstance(refused, m.Refused)
                assert refused.code == "invalid"

    beside(open_host, attack)


def test_request_that_is_announced_too_long_is_not_waited_for(open_host: WatchedHost) -> None:
    def attack() -> None:
        for size in (MAX_REQUEST + 1, 1 << 20, 2**32 - 1):
            with RawPeer(open_host.socket_path) as peer:
                peer.send(size.to_bytes(4, "little"))
                assert peer.is_dropped()

    beside(open_host, attack)


HALF = (1000).to_bytes(4, "little") + b"half"


@pytest.mark.parametrize(
    ("greet", "start"), [(False, b""), (False, b"\x01"), (False, HALF), (True, b"\x01"), (True, HALF)]
)
def test_frame_that_does_not_end_ends_the_connection_with_a_line_in_the_log(
    open_host: WatchedHost,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    greet: bool,
    start: bytes,
) -> None:
    monkeypatch.setattr(link, "FRAME_TICKS", 1)

    def attack() -> None:
        with RawPeer(open_host.socket_path, greet=greet) as peer:
            peer.socket.sendall(start)
            assert peer.is_dropped()

    with caplog.at_level(logging.WARNING, "shmhost"):
        beside(open_host, attack)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "dropped uid 65534" in line
    assert "did not come within" in line


def test_client_that_reads_nothing_is_dropped_with_a_line_in_the_log(
    open_host: WatchedHost, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox, "STALL_TICKS", 1)
    names = tuple(f"n{number}" for number in range(64))

    def attack() -> None:
        ended = contextlib.suppress(BrokenPipeError, ConnectionResetError)
        with RawPeer(open_host.socket_path) as peer, ended:
            while True:
                peer.send(pack(m.Open(2, names, (), False)))

    with shmclient.connect(open_host.socket_path) as shm:
        for name in names:
            shm.put(name, b"for all", mode=0o644).close()
    with caplog.at_level(logging.WARNING, "shmhost"):
        beside(open_host, attack)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "dropped uid 65534" in line
    assert "unread" in line


def test_client_that_is_refused_keeps_its_connection_and_its_leases(open_host: WatchedHost) -> None:
    def attack() -> None:
        with shmclient.connect(open_host.socket_path) as shm:
            region = shm.put("mine", b"still here")
            for size in (1 << 60, 2**63, 1 << 40):
                with pytest.raises((shmclient.QuotaExceeded, shmclient.InvalidArgument)):
                    shm.create("more", size).__enter__()
            assert bytes(shm.get("mine")) == bytes(region.data) == b"still here"
            with RawPeer(open_host.socket_path) as peer:  # seals its own object, so that the host cannot
                created, (writer,) = peer.ask(m.Create(2, "x", 100, "full", "memfd", 0o600, True))
                assert isinstance(created, m.Created)
                fcntl.fcntl(writer, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)
                os.close(writer)
                publish = m.Publish(3, created.region, 1, 100, 0, 0, 0, 0)
                assert isinstance(peer.ask(publish)[0], m.Refused)
                assert isinstance(peer.ask(m.Stat(4, "mine"))[0], m.Described)

    beside(open_host, attack)


def test_creation_that_is_never_published_is_ended_by_root_alone(open_host: WatchedHost) -> None:
    to_child, from_child = os.pipe(), os.pipe()

    def squat() -> None:
        with RawPeer(open_host.socket_path) as peer:
            created, fds = peer.ask(m.Create(2, "wanted", 100, "full", "memfd", 0o644, True))
            assert isinstance(created, m.Created)
            os.write(from_child[1], b".")
            os.read(to_child[0], 1)
            refused, _ = peer.ask(m.Publish(3, created.region, 1, 100, 0, 0, 0, 0))
            assert isinstance(refused, m.Refused)
            assert refused.code == "not-found"
            os.close(fds[0])

    with shmclient.connect(open_host.socket_path) as shm, ThreadPoolExecutor(1) as pool:
        result = pool.submit(as_nobody, squat)
        os.read(from_child[0], 1)
        with pytest.raises(shmclient.RegionBusy, match="uid 65534"):
            shm.put("wanted", b"1")
        shm.unlink("wanted")
        shm.put("wanted", b"1").close()
        os.write(to_child[1], b".")
        assert result.result(30) == 0
        assert bytes(shm.get("wanted")) == b"1"
    for descriptor in (*to_child, *from_child):
        os.close(descriptor)
