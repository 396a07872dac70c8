"""Replies that clients do not read: they wait, the others go on, and who never reads is dropped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import shmclient
from shmhost.core.accounts import Accounts
from shmhost.core.resources import Totals
from shmhost.serving.outbox import Outbox
from shmhost.serving.turns import Turns
from shmhost.serving.unread import Flight
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.names import MAX_DESCRIPTORS
from support import RawPeer, WatchedHost, in_child, serve, wait_until

NAMES = tuple(f"shared/{number}" for number in range(MAX_DESCRIPTORS))
NOBODY = 65534
# All is imported first: that user may not be able to read the folders of Python.
AS_NOBODY = f"""
import os, resource
import anyio._backends._asyncio, encodings.idna, shmhost.cli, shmhost.serving.server, uvloop
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
"""


class Limited:
    """A host as a user whose descriptors in flight the kernel limits, with regions of NAMES."""

    def __init__(self, path: Path, first: str) -> None:
        self.path = str(path)
        self.child = serve(path, AS_NOBODY + first)

    def log(self) -> str:
        """End the host and return what it wrote."""
        self.child.terminate()
        return self.child.communicate(timeout=20)[1]


@pytest.fixture
def first() -> str:
    """What the host of `limited` runs before it serves."""
    return ""


@pytest.fixture
def limited(first: str) -> Iterator[Limited]:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        os.chown(folder, NOBODY, NOBODY)
        host = Limited(Path(folder) / "h.sock", first)
        with shmclient.connect(host.path) as shm:
            for name in NAMES:
                shm.put(name, b"x" * 100, mode=0o644).close()
        yield host
        host.child.kill()
        host.child.communicate()


def ask_without_reading(peer: RawPeer) -> None:
    """Ask for 64 descriptors again and again, until no more questions are taken."""
    peer.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for number in range(2, 200):
            peer.send(pack(m.Open(number, NAMES, (), False)))


def attach(peer: RawPeer, number: int) -> None:
    reply, fds = peer.ask(m.Open(number, NAMES[:1], (), False))
    descriptors.close_all(fds)
    assert isinstance(reply, m.Opened), reply
    assert len(fds) == 1
    peer.send(pack(m.Release(0, (reply.grants[0].lease,))))


def has_ended(peer: RawPeer) -> bool:
    """Whether the host has closed a connection of which nothing is read."""
    try:
        peer.send(b"\0")
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize("first", ["import shmhost.serving.deadline as d; d.TICK_S = 0.2"])
def test_bystander_attaches_when_three_clients_read_nothing(limited: Limited) -> None:
    with contextlib.ExitStack() as stack:
        offenders = [stack.enter_context(RawPeer(limited.path)) for _ in range(3)]
        bystander = stack.enter_context(RawPeer(limited.path))
        for offender in offenders:
            ask_without_reading(offender)
        for number in range(2, 202):
            attach(bystander, number)
        for offender in offenders:
            wait_until(lambda offender=offender: has_ended(offender))  # type: ignore[misc]
        attach(bystander, 202)
    log = limited.log()
    assert log.count("descriptors unread for 5 s") == log.count("dropped uid") == 3, log


@pytest.mark.parametrize("first", ["import shmhost.serving.deadline as d; d.TICK_S = 0.2"])
def test_uid_cannot_take_more_by_connections_that_were_dropped(limited: Limited) -> None:
    """Until it closes its socket, a client that was dropped keeps what it has not read."""

    def attach_as_another() -> None:
        os.setresuid(4711, 4711, 4711)
        with RawPeer(limited.path) as bystander:
            for number in range(2, 202):
                attach(bystander, number)

    os.chmod(limited.path, 0o666)
    with RawPeer(limited.path) as peer:
        with contextlib.ExitStack() as stack:
            offenders = [stack.enter_context(RawPeer(limited.path)) for _ in range(4)]
            for offender in offenders:
                ask_without_reading(offender)
            wait_until(lambda: all(map(has_ended, offenders)))
            peer.send(pack(m.Open(2, NAMES[:1], (), False)))
            with pytest.raises(TimeoutError):
                peer.socket.settimeout(0.5)
                peer.receive()
            assert in_child(attach_as_another) == 0
        peer.socket.settimeout(20)
        reply, fds = peer.receive()
        assert (type(reply), len(fds)) == (m.Opened, 1)
        descriptors.close_all(fds)


FILL = """
import socket, sys
pairs = []
try:
    while True:
        pairs.append(socket.socketpair())
        socket.send_fds(pairs[-1][0], [b"x"], [0] * 200)
except OSError as error:
    print(error.errno, flush=True)
sys.stdin.read()
"""


def test_reply_waits_when_programs_of_the_same_user_fill_the_kernel(limited: Limited) -> None:
    command = [sys.executable, "-c", AS_NOBODY + FILL]
    with RawPeer(limited.path) as peer:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as filler:
            assert filler.stdout is not None
            assert int(filler.stdout.readline()) == errno.ETOOMANYREFS
            peer.send(pack(m.Open(2, NAMES[:1], (), False)) + pack(m.Stat(3, NAMES[0])))
            with pytest.raises(TimeoutError):
                peer.socket.settimeout(0.3)
                peer.receive()
            peer.socket.settimeout(20)
            filler.communicate()
        replies = [peer.receive() for _ in range(2)]
        assert [(type(reply), len(fds)) for reply, fds in replies] == [(m.Opened, 1), (m.Described, 0)]
        descriptors.close_all(replies[0][1])


def test_client_gets_all_replies_in_order_when_it_reads_late(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    for name in NAMES:
        shm.put(name, b"x").close()
    wait_until(lambda: "AnyIO worker thread" not in {thread.name for thread in threading.enumerate()})
    before = host.counts()
    with RawPeer(host.socket_path) as peer:
        asked = [m.Open(number, NAMES, (), False) for number in range(2, 12)]
        peer.send(b"".join(pack(request) + pack(m.Stat(request.id + 100, "none")) for request in asked))
        for request in asked:
            reply, fds = peer.receive()
            assert (type(reply), reply.id, len(fds)) == (m.Opened, request.id, len(NAMES))
            descriptors.close_all(fds)
            assert peer.receive()[0].id == request.id + 100
    wait_until(lambda: host.counts() == before, shown=lambda: (before, host.counts()))


def test_nothing_is_left_when_a_client_that_reads_nothing_is_dropped(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shmhost.serving.deadline.TICK_S", 0.02)
    for name in NAMES:
        shm.put(name, b"x").close()
    wait_until(lambda: "AnyIO worker thread" not in {thread.name for thread in threading.enumerate()})
    before = host.counts()
    with RawPeer(host.socket_path) as peer:
        ask_without_reading(peer)
        wait_until(lambda: host.counts()["links"] == before["links"])
    wait_until(lambda: host.counts() == before, shown=lambda: (before, host.counts()))


def test_serve_raises_its_soft_limit_of_open_files(tmp_path: Path) -> None:
    child = serve(
        tmp_path / "h.sock", "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (99, 1234))"
    )
    limits = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
    child.terminate()
    child.communicate()
    assert limits == (1234, 1234)


def test_client_is_dropped_when_it_reads_but_not_all_that_others_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when its socket has room again for what needs no descriptors."""
    monkeypatch.setattr("shmhost.serving.deadline.TICK_S", 0.02)

    async def converse(ours: socket.socket, theirs: socket.socket) -> str:
        share, ended = Flight(Accounts(Totals(1))).share(7), asyncio.get_running_loop().create_future()
        outbox = Outbox(ours, share, Turns().of(7), lambda: None, ended.set_result)
        outbox.send(bytes(170_000), [0] * 64)
        outbox.send(b"small", [0] * 64)
        share.press()
        while outbox.is_empty:
            outbox.send(bytes(5000), ())
        rest = 170_000
        while rest:
            data, fds, _, _ = socket.recv_fds(theirs, rest, 64)
            descriptors.close_all(fds)
            rest -= len(data)
        why: str = await asyncio.wait_for(ended, 20)
        outbox.close(lambda: None)
        return why

    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        assert "left 128 descriptors unread" in asyncio.run(converse(ours, theirs))
