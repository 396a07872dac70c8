"""The thread that hands regions back: forks, descriptors that run out, and hosts that answer strangely."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import shmclient
from shmprotocol.native.builtins import Home, Kept
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.names import MAX_RESTORED
from support import Machine, RawPeer, wait_until

AHEAD = 8  # requests, as in kept.c
FORK_WITHOUT_DESCRIPTORS = """
    import os, sys
    import shmclient
    shm = shmclient.connect(sys.argv[1])
    value = shm.put("x", b"1")
    copies = []
    try:
        while True:
            copies.append(os.dup(0))
    except OSError:
        pass
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    for copy in copies:
        os.close(copy)
    print("ready", flush=True)
    sys.stdin.read()
"""


def leases(path: str) -> dict[str, int]:
    with shmclient.connect(path, wait=60) as client:
        return {info.name: info.leases for info in client.list()}


@contextlib.contextmanager
def few_descriptors() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_process_without_descriptors_can_fork_and_hands_back_then(machine: Machine) -> None:
    command = [sys.executable, "-c", textwrap.dedent(FORK_WITHOUT_DESCRIPTORS), machine.path]
    with few_descriptors():
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            machine.restart()
            wait_until(lambda: leases(machine.path) == {"x": 1})
        finally:
            child.kill()


@contextlib.contextmanager
def homes(path: str, *names: str) -> Iterator[tuple[Home, list[tuple[int, int]]]]:
    """Yield a home of a connection, and the numbers and descriptors of regions that it has opened."""
    with RawPeer(path, greet=False) as peer:
        welcome, _ = peer.ask(m.Hello(1, m.VERSION, m.VERSION, "raw"))
        assert isinstance(welcome, m.Welcome)
        reply, fds = peer.ask(m.Open(2, names, (), False))
        assert isinstance(reply, m.Opened)
        home = Home(path, welcome.host, peer.socket.fileno())
        try:
            yield home, [(grant.region, fd) for grant, fd in zip(reply.grants, fds, strict=True)]
        finally:
            close_all(fds)
            home.end()


def put(path: str, *names: str) -> None:
    with shmclient.connect(path) as shm:
        for name in names:
            shm.put(name, b"1").close()


def test_region_whose_grant_is_read_late_is_handed_back(machine: Machine) -> None:
    """Its host is dead by then, and what came before is with the next one."""
    put(machine.path, "x", "y")
    with homes(machine.path, "x", "y") as (home, (x, y)):
        first = Kept(home, *x, None)
        machine.restart()
        wait_until(lambda: leases(machine.path) == {"x": 1})
        second = Kept(home, *y, None)
        wait_until(lambda: leases(machine.path) == {"x": 1, "y": 1})
        first.close()
        second.close()
        wait_until(lambda: leases(machine.path) == {"x": 0, "y": 0})


@contextlib.contextmanager
def next_host(machine: Machine) -> Iterator[tuple[socket.socket, bytes]]:
    """Take the place of a host, which is killed; yield a listener, and the answer to a greeting."""
    with RawPeer(machine.path, greet=False) as peer:
        welcome, fds = peer.ask(m.Hello(1, m.RESTORE_VERSION, m.RESTORE_VERSION, "raw"))
        close_all(fds)
    assert isinstance(welcome, m.Welcome)
    family = welcome.host.rpartition(".")[0]
    machine.kill()
    os.unlink(machine.path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(machine.path)
        listener.listen()
        listener.settimeout(60)
        yield listener, pack(welcome._replace(host=f"{family}.9999", board=(0, 0)))


class Requests:
    """The requests of a keeper, as they come to a host."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._connection = Connection("host")
        self._connection.allow_descriptors(MAX_RESTORED)
        self._pending: list[m.Message] = []

    def next(self) -> m.Message:
        while not self._pending:
            self._connection.receive(*descriptors.receive(self._sock))
            for message, fds in self._connection.messages():
                close_all(fds)
                self._pending.append(message)
        return self._pending.pop(0)

    def restored(self) -> tuple[int, ...]:
        """Return the regions that the next one hands back."""
        message = self.next()
        assert isinstance(message, m.Restore), message
        return message.regions

    def answer(self, regions: tuple[int, ...]) -> None:
        """Grant regions, each by a lease of its number."""
        grants = tuple(m.Grant(number, number, 1, "", 0, 0, 0, 0, 0, 0) for number in regions)
        self._sock.sendall(pack(m.Restored(1, grants)))


def test_several_requests_go_before_the_first_answer_and_each_region_once(machine: Machine) -> None:
    put(machine.path, "x")
    count = (AHEAD + 2) * MAX_RESTORED - 20
    with homes(machine.path, "x") as (home, ((_, fd),)), next_host(machine) as (listener, welcome):
        nodes = {number: Kept(home, number, os.dup(fd), None) for number in range(1, count + 1)}
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(60)
            sock.recv(1000)
            sock.sendall(welcome)
            requests = Requests(sock)
            asked = [requests.restored() for _ in range(AHEAD)]
            gone = asked[1][7]
            nodes.pop(gone).close()
            requests.answer(asked[0])
            asked.append(requests.restored())  # there is room for one more
            for regions in asked[1:]:
                requests.answer(regions)
            others = [requests.next(), requests.next()]
            assert m.Release(0, (gone,)) in others
            asked += [message.regions for message in others if isinstance(message, m.Restore)]
            requests.answer(asked[-1])
            assert sorted(itertools.chain(*asked)) == list(range(1, count + 1))
            number = asked[0][0]
            nodes.pop(number).close()
            assert requests.next() == m.Release(0, (number,))  # by the lease that it was given
        for node in nodes.values():
            node.close()


def test_bytes_of_one_host_are_not_taken_for_those_of_the_next(machine: Machine) -> None:
    put(machine.path, "x")
    with homes(machine.path, "x") as (home, (x,)):
        node = Kept(home, *x, None)
        with next_host(machine) as (listener, answer):
            first, _ = listener.accept()
            with first:
                first.recv(1000)
                first.shutdown(socket.SHUT_RD)  # so that a Restore fails
                first.sendall(answer + b"half a frame")
                second, _ = listener.accept()
            with second:
                second.settimeout(60)
                second.recv(1000)
                second.sendall(answer)
                restore, owned = descriptors.receive(second)
                owned.close()
        assert restore == pack(m.Restore(1, (x[0],)))
        node.close()
