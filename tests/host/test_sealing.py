"""A creator that makes sealing wait: by pages in a pipe, or by a write that does not end."""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import shmclient
from held_support import blocked_write, spare_of
from shmhost.serving.workers import WIDTH
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import RawPeer, WatchedHost, wait_until, watched_host

PAGES = 4
PAYLOAD = (PAGES - 1) * mmap.PAGESIZE
SYS_SETRESUID = 117  # asm/unistd_64.h
NOBODY = 65534
_LIBC = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Attacker:
    """A creator whose region's pages lie in a pipe: nothing of it is mapped."""

    def __init__(self, path: str, name: str) -> None:
        self.peer = RawPeer(path)
        created, (self.descriptor,) = self.peer.ask(m.Create(1, name, PAYLOAD, "full", "memfd", 0o600, True))
        assert isinstance(created, m.Created)
        self.region = created.region
        self.reader, self.writer = os.pipe()
        with mmap.mmap(self.descriptor, created.capacity) as pages:
            pages.write(b"x" * created.capacity)
            vmsplice(self.writer, pages)

    def publish(self, request: int) -> None:
        self.peer.send(pack(m.Publish(request, self.region, 1, PAYLOAD, 0, 0, 0, 0)))

    def answer(self) -> m.Message:
        reply, fds = self.peer.receive()
        descriptors.close_all(fds)
        return reply

    def has_answer(self) -> bool:
        return bool(select.select([self.peer.socket], [], [], 0)[0])

    def empty_pipe(self) -> None:
        os.read(self.reader, PAGES * mmap.PAGESIZE)

    def close(self) -> None:
        self.peer.close()
        descriptors.close_all([self.descriptor, self.reader, self.writer])


def vmsplice(pipe: int, pages: mmap.mmap) -> None:
    """Put the pages of a mapping into a pipe, which has them until they are read."""
    buffer = (ctypes.c_char * len(pages)).from_buffer(pages)
    vector = Iovec(ctypes.addressof(buffer), len(pages))
    assert _LIBC.vmsplice(pipe, ctypes.byref(vector), 1, 0) == len(pages), os.strerror(ctypes.get_errno())


@pytest.fixture
def attackers(host: WatchedHost) -> Iterator[list[Attacker]]:
    started = [Attacker(host.socket_path, f"pinned/{number}") for number in range(6)]
    yield started
    for attacker in started:
        attacker.close()


def test_others_are_answered_while_sealing_waits(
    host: WatchedHost, shm: shmclient.Client, attackers: list[Attacker]
) -> None:
    shm.put("x", b"bystander").close()
    with RawPeer(host.socket_path) as bystander:
        for attacker in attackers:
            attacker.publish(2)
        for request in range(20):
            opened, fds = bystander.ask(m.Open(request, ("x",), (), False))
            descriptors.close_all(fds)
            assert isinstance(opened, m.Opened)
        assert not all(attacker.has_answer() for attacker in attackers)
    assert [attacker.answer() for attacker in attackers]


def test_refusal_names_both_causes_and_creation_can_be_published_later(attackers: list[Attacker]) -> None:
    attacker = attackers[0]
    attacker.publish(2)
    reply = attacker.answer()
    assert isinstance(reply, m.Refused)
    assert reply.code == "busy"
    assert "writable mapping" in reply.text
    assert "vmsplice" in reply.text
    attacker.empty_pipe()
    attacker.publish(3)
    assert isinstance(attacker.answer(), m.Published)


def test_regions_of_dead_attackers_are_given_back(host: WatchedHost, attackers: list[Attacker]) -> None:
    before = host.counts() | {"descriptors": 0}
    for attacker in attackers:
        attacker.publish(2)
        attacker.peer.close()
    wait_until(lambda: host.counts()["creating"] == 0)
    assert host.counts()["charged"] == 0
    assert before["creating"] == len(attackers)


def test_others_are_answered_while_creator_holds_object(host: WatchedHost, shm: shmclient.Client) -> None:
    attacker = Attacker(host.socket_path, "held")
    attacker.empty_pipe()
    shm.put("x", b"bystander").close()
    with RawPeer(host.socket_path) as bystander, blocked_write(attacker.descriptor):
        attacker.publish(2)
        assert isinstance(bystander.ask(m.Stat(3, "x"))[0], m.Described)
        assert not attacker.has_answer()
    assert isinstance(attacker.answer(), m.Published)
    attacker.close()


def test_others_are_answered_while_clients_hold_their_spares(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    for _ in range(4):  # a sealer of the host's, and a thread of its own for the first that it must leave
        shm.put("x", bytes(1 << 20)).close()
    with ExitStack() as stack, RawPeer(host.socket_path) as bystander:
        peers = [stack.enter_context(RawPeer(host.socket_path)) for _ in range(WIDTH)]
        with ExitStack() as locks:
            for number, peer in enumerate(peers):
                region, spare = spare_of(peer, f"held/{number}", PAYLOAD)
                stack.callback(os.close, spare)
                locks.enter_context(blocked_write(spare))
                peer.send(
                    pack(m.Assign(3, region, f"held/{number}", 0o600, True, PAYLOAD, PAYLOAD, 0, 0, ()))
                )
                assert isinstance(bystander.ask(m.Stat(4, "x"))[0], m.Described)
                shm.put("y", b"by another road").close()
            assert not any(select.select([peer.socket], [], [], 0)[0] for peer in peers)
        for peer in peers:
            reply, fds = peer.receive()
            descriptors.close_all(fds)
            assert isinstance(reply, m.Published)
    shm.put("x", bytes(1 << 20)).close()
    shm.put("x", bytes(1 << 20)).close()


def test_retries_of_a_uid_leave_its_first_attempts_alone(
    shm: shmclient.Client, attackers: list[Attacker]
) -> None:
    with ExitStack() as locks:
        for attacker in attackers[:WIDTH]:
            attacker.publish(2)
            assert isinstance(attacker.answer(), m.Refused)
            locks.enter_context(blocked_write(attacker.descriptor))
            attacker.publish(3)
        shm.put("x", b"of the same uid").close()
        assert not any(attacker.has_answer() for attacker in attackers)
    assert all(isinstance(attacker.answer(), m.Refused) for attacker in attackers[:WIDTH])


def attack_as_nobody(path: str, count: int) -> list[Attacker]:
    """Connect attackers from a thread of another uid; the C library would change the uid of all threads."""
    attackers: list[Attacker] = []

    def connect() -> None:
        assert _LIBC.syscall(SYS_SETRESUID, -1, NOBODY, -1) == 0
        attackers.extend(Attacker(path, f"nobody/{number}") for number in range(count))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return attackers


def test_uid_that_blocks_all_its_threads_leaves_others_alone() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root connects as another user")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chmod(folder, 0o755)
        path = f"{folder}/h.sock"
        stack.enter_context(watched_host(path, socket_mode=0o666))
        attackers = attack_as_nobody(path, 2 * WIDTH)
        assert len(attackers) == 2 * WIDTH
        for attacker in attackers:
            stack.callback(attacker.close)
            attacker.empty_pipe()
            stack.enter_context(blocked_write(attacker.descriptor))
            attacker.publish(2)
        with shmclient.connect(path) as shm:
            shm.put("x", b"of another uid").close()
        assert not any(attacker.has_answer() for attacker in attackers)


def test_host_ends_while_creator_holds_object(tmp_path: object) -> None:
    path = f"{tmp_path}/h.sock"
    with watched_host(path) as host:
        attacker = Attacker(path, "held")
        attacker.empty_pipe()
        lock = blocked_write(attacker.descriptor)
        lock.__enter__()
        attacker.publish(2)
        with RawPeer(host.socket_path) as bystander:
            assert isinstance(bystander.ask(m.Measure(3))[0], m.Measured)
    lock.__exit__(None, None, None)
    wait_until(lambda: "shmhost worker" not in {thread.name for thread in threading.enumerate()})
    attacker.close()
