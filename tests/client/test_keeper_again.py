"""The thread that hands back, and a host that refuses: for now, so that it tries again, or for good."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Iterator, Sequence

import pytest

import shmclient
from arena_support import MESSAGE
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import ARENA_BACK, NOT_NOW
from support import Machine, RawPeer

FIRST_S = 0.02  # the first pause; each is twice the one before
TIMES = 4  # that a host refuses


class Next:
    """The next host at a socket: it answers what the thread says as it is told to."""

    def __init__(self, machine: Machine) -> None:
        with RawPeer(machine.path, greet=False) as peer:
            welcome, fds = peer.ask(m.Hello(1, m.RESTORE_VERSION, m.RESTORE_VERSION, "raw"))
            close_all(fds)
        assert isinstance(welcome, m.Welcome)
        family = welcome.host.rpartition(".")[0]
        self._welcome = welcome._replace(host=f"{family}.999", board=(0, 0))
        machine.kill()
        os.unlink(machine.path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(machine.path)
        self._listener.listen()
        self._listener.settimeout(60)
        self._socket: socket.socket | None = None

    def accept(self, *, is_welcome: bool = True) -> float:
        """Accept a connection, and answer its Hello; return when it came."""
        if self._socket is not None:
            self._socket.close()
        self._socket, _ = self._listener.accept()
        now = time.monotonic()
        self._socket.settimeout(60)
        self._connection = Connection("host")
        self._connection.allow_descriptors(64)
        assert isinstance(self.hear()[0], m.Hello)
        self.say(self._welcome if is_welcome else m.Goodbye(0, "there is no room for a connection"))
        return now

    def hear(self) -> tuple[m.Message, float]:
        """Return what it says next, and when."""
        assert self._socket is not None
        while True:
            for message, fds in self._connection.messages():
                close_all(fds)
                return message, time.monotonic()
            data, some = descriptors.receive(self._socket)
            assert data
            self._connection.receive(data, list(some))
            some.clear()

    def say(self, message: m.Message, *fds: int) -> None:
        assert self._socket is not None
        descriptors.send(self._socket, pack(message), fds, 0)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._listener.close()


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    client = shmclient.connect(machine.path)
    yield client
    client.close()


def grant(number: int, lease: int = 0, flags: int = 0) -> m.Grant:
    return m.Grant(lease, number, 1, "x", 1 << 40, 1, 4096, flags, 0, 0)


def check_pauses(times: Sequence[float]) -> None:
    """The pauses are as long as they shall be, and no shorter; how much longer is the machine's affair."""
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(pause > 0.9 * FIRST_S * 2**number for number, pause in enumerate(pauses)), pauses


def test_region_is_handed_back_until_there_is_room(machine: Machine, shm: shmclient.Client) -> None:
    with shm.put("x", b"1" * 5000) as region, contextlib.closing(Next(machine)) as host:
        assert len(region.data) == 5000
        host.accept()
        times = []
        for number in range(TIMES):
            message, now = host.hear()
            assert message == m.Restore(1, (region.number,))
            times.append(now)
            is_last = number == TIMES - 1
            host.say(m.Restored(1, (grant(region.number, 7 * is_last, NOT_NOW),)))
        check_pauses(times)


def test_only_what_was_refused_for_now_is_handed_back_again(machine: Machine, shm: shmclient.Client) -> None:
    with contextlib.ExitStack() as stack:
        regions = [stack.enter_context(shm.put(name, b"1" * 5000)) for name in "abc"]
        numbers = {region.number for region in regions if len(region.data)}
        host = stack.enter_context(contextlib.closing(Next(machine)))
        host.accept()
        message, _ = host.hear()
        assert isinstance(message, m.Restore)
        assert set(message.regions) == numbers
        back, gone, later = message.regions
        host.say(m.Restored(1, (grant(back, 7), grant(gone), grant(later, 0, NOT_NOW))))
        assert host.hear()[0] == m.Restore(1, (later,))
        host.say(m.Restored(1, (grant(later, 8),)))


@pytest.mark.parametrize("code", ["quota-exceeded", "out-of-memory", "busy"])
def test_arena_is_handed_back_until_there_is_room(code: str, machine: Machine, shm: shmclient.Client) -> None:
    with contextlib.ExitStack() as stack:
        arena = stack.enter_context(shm.arena("camera", size=1 << 20))
        arena["x"] = b"1"
        host = stack.enter_context(contextlib.closing(Next(machine)))
        host.accept()
        times = []
        for _ in range(TIMES):
            message, now = host.hear()
            assert isinstance(message, m.RestoreArena), message
            times.append(now)
            host.say(m.Refused(1, code, "not now"))
        check_pauses(times)
        message, _ = host.hear()
        assert isinstance(message, m.RestoreArena)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            host.say(m.ArenaRestored(1, True), theirs.fileno())
            theirs.close()
            ours.settimeout(60)
            assert MESSAGE.unpack(ours.recv(100))[0] == ARENA_BACK
            arena["x"] = b"2"


@pytest.mark.parametrize("code", ["quota-exceeded", "out-of-memory", "busy"])
def test_ledger_is_handed_back_until_there_is_room(
    code: str, machine: Machine, shm: shmclient.Client
) -> None:
    with shm.arena("camera", size=1 << 20) as arena, contextlib.ExitStack() as stack:
        arena["x"] = b"1"
        value = arena["x"]
        reader = stack.enter_context(shmclient.connect(machine.path))
        values = [value, reader.get("camera/x")]
        arena.close()  # whose keeper has nothing to hand back then
        host = stack.enter_context(contextlib.closing(Next(machine)))
        host.accept()
        times = []
        while len(times) < TIMES:
            message, now = host.hear()
            if isinstance(message, m.Restore):  # the arena
                host.say(m.Restored(1, tuple(grant(number, 7) for number in message.regions)))
                continue
            assert isinstance(message, m.RestoreLedger), message
            times.append(now)
            host.say(m.Refused(1, code, "not now"))
        check_pauses(times)
        del values


@pytest.mark.parametrize("code", ["not-found", "invalid", "unsupported", "access-denied", "busybody"])
def test_other_refusals_are_final(code: str, machine: Machine, shm: shmclient.Client) -> None:
    with contextlib.ExitStack() as stack:
        arenas = [stack.enter_context(shm.arena(name, size=1 << 20)) for name in "ab"]
        host = stack.enter_context(contextlib.closing(Next(machine)))
        host.accept()
        asked = []
        for answer in (code, "busy", "busy", "busy"):
            message, _ = host.hear()
            assert isinstance(message, m.RestoreArena), message
            asked.append(message.region)
            host.say(m.Refused(1, answer, "no"))
        assert asked[0] not in asked[1:]
        assert len(set(asked)) == len(arenas)


def test_host_that_has_no_room_for_the_connection_is_asked_again(
    machine: Machine, shm: shmclient.Client
) -> None:
    with shm.put("x", b"1" * 5000) as region, contextlib.closing(Next(machine)) as host:
        assert len(region.data) == 5000
        check_pauses([host.accept(is_welcome=False) for _ in range(TIMES)])
        host.accept()
        assert host.hear()[0] == m.Restore(1, (region.number,))
