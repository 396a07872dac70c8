"""Takeovers by a successor, and from a host, that say anything and send descriptors of any kind."""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import shmclient
from arena_support import ArenaPeer
from foreign import KINDS, passable
from shmhost import cli
from shmhost.serving import parcels
from shmhost.serving.handover import GO, READY, SERVING, START
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from shmprotocol.wire.query import Query
from support import needs_root, wait_until
from takeover_support import HalfSuccessor, Line, line_of_hosts

IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"


@pytest.fixture
def line(folder: Path) -> Iterator[Line]:
    with line_of_hosts(folder / "h") as hosts:
        yield hosts


# --- a hostile successor

WORDS = {"START": ["ask", "hear"], "READY": ["ask", "hear", "start", "read_all"]}
WORDS["SERVING"] = [*WORDS["READY"], "ready", "let_go"]


@pytest.mark.parametrize("word", WORDS)
def test_host_serves_on_when_its_successor_says_another_word(word: str, line: Line) -> None:
    with shmclient.connect(line.path) as shm, shm.put("x", b"1") as region:
        shm.list()
        before = line.descriptors()
        for said in (b"x", b"\0" * 5000):
            successor = HalfSuccessor(line.path)
            for step in WORDS[word]:
                getattr(successor, step)()
            successor.socket.sendall(said)
            reply, _ = successor.peer.receive()
            assert isinstance(reply, m.Refused), reply
            assert "the successor said" in reply.text
            successor.die()
            assert region.is_current()
        shm.put("x", b"2").close()
        assert not region.is_current()
        region.close()
        wait_until(lambda: line.descriptors() == before, shown=lambda: (before, line.descriptors()))
        line.take_over()
        assert bytes(shm.get("x")) == b"2"


def test_host_takes_no_descriptor_of_its_successor(line: Line) -> None:
    with shmclient.connect(line.path) as shm:
        shm.put("x", b"1").close()
        before = line.descriptors()
        for steps in WORDS.values():
            with ExitStack() as stack:
                fds = [KINDS[kind](stack) for kind in passable()]
                successor = HalfSuccessor(line.path)
                for step in steps:
                    getattr(successor, step)()
                with suppress(PermissionError):  # since Linux 6.16 the kernel does not even send them
                    socket.send_fds(successor.socket, [b"x"], fds)
                successor.die()
        shm.put("x", b"2").close()
        wait_until(lambda: line.descriptors() == before, shown=lambda: (before, line.descriptors()))


# --- a hostile host


class Predecessor:
    """A host that says what it is told to say, and hands over what it is given; it lets its successor go."""

    def __init__(self, path: str, data: bytes = b"", fds: Sequence[int] = ()) -> None:
        self._path = path
        self._parcel = data, list(fds)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        os.chmod(path, 0o666)
        self._thread = threading.Thread(target=self.run)
        self.has_successor = False

    def run(self) -> None:
        """Hand over to one successor, or end with the listener."""
        with suppress(OSError, struct.error), self.listener.accept()[0] as sock:
            sock.settimeout(30)
            self._greet(sock)
            assert parcels.receive_exactly(sock, 1) == START
            parcels.send(sock, *self._parcel)
            assert parcels.receive_exactly(sock, 1) == READY
            sock.sendall(GO)
            self.has_successor = parcels.receive_exactly(sock, 1) == SERVING

    def _greet(self, sock: socket.socket) -> None:
        connection, answers = Connection("host"), 0
        while answers < 2:
            connection.receive(sock.recv(1 << 16), [])
            for message, _ in connection.messages():
                welcome = m.Welcome(message.id, m.VERSION, "h", (), os.getuid(), (0, 0))
                sock.sendall(pack(m.Done(message.id) if answers else welcome))
                answers += 1

    def __enter__(self) -> Predecessor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)  # if no successor has come
        self._thread.join()
        self.listener.close()
        Path(self._path).unlink(missing_ok=True)  # a successor that fails after GO removes it at its end

    def wait(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


class Successor:
    """A host that takes over, in a forked child: that takes a tenth of the time."""

    def __init__(self, path: str) -> None:
        self._log = os.memfd_create("log")
        self.is_over = False
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # not one in Python, which waits for C
            signal.alarm(60)
            os.dup2(self._log, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 pytest has its own
            logging.getLogger().handlers.clear()  # likewise
            sys.argv = ["shmhost", "serve", "--socket", path, "--takeover"]
            try:
                cli.main()
            except SystemExit as end:
                os._exit(int(end.code or 0))
            except BaseException:
                traceback.print_exc()
            os._exit(77)

    def end(self) -> tuple[int, str]:
        """Return its exit code, or minus the signal that ended it, and its log."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.is_over = True
        log = os.pread(self._log, 1 << 16, 0).decode()
        os.close(self._log)
        return code, log

    def kill(self) -> tuple[int, str]:
        os.kill(self.pid, signal.SIGKILL)
        return self.end()

    def __enter__(self) -> Successor:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.is_over:
            self.kill()


class Estate(NamedTuple):
    """What a host of all kinds of things says of itself, and its descriptors."""

    data: bytes
    fds: list[int]
    line: Line


@pytest.fixture
def estate(line: Line) -> Iterator[Estate]:
    with ExitStack() as stack:
        shm = stack.enter_context(shmclient.connect(line.path))
        shm.put("x", b"1" * 50_000).close()
        shm.put("shm", b"1", backend="shm").close()
        owner, reader, raw = (stack.enter_context(ArenaPeer(line.path)) for _ in range(3))
        raw.ask(m.Create(2, "new", 5000, "full", "memfd", 0o600, False))
        raw.send(pack(m.Open(3, ("nothing",), (), True)))
        owner.publish("camera")
        descriptors.close_all(reader.opened("camera")[1])
        successor = HalfSuccessor(line.path)
        for step in WORDS["READY"]:
            getattr(successor, step)()
        line.child.send_signal(signal.SIGSTOP)  # it serves on when its successor is dead
        yield Estate(successor.data, list(successor.owned), line)
        line.child.send_signal(signal.SIGCONT)
        successor.die()
        with shmclient.connect(line.path) as cleaner:
            cleaner.unlink("shm")
            cleaner.list()


def inherit(estate: Estate, path: Path, data: bytes, fds: Sequence[int]) -> None:
    """Have a successor inherit this: it serves, or it says why not and ends."""
    with Predecessor(str(path), data, fds) as host, Successor(str(path)) as successor:
        process = os.pidfd_open(successor.pid)
        while not (is_over := bool(select.select([process], [], [], 0.01)[0])) and not host.has_successor:
            pass
        os.close(process)
        code, log = successor.end() if is_over else successor.kill()
    assert (code, "cannot take over" in log) == ((1, True) if is_over else (-signal.SIGKILL, False)), log


def copies_in(pid: int, descriptor: int) -> int:
    """Count the descriptors of an object that a process has."""
    count, status = 0, os.fstat(descriptor)
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a moment later
            count += os.path.samestat(path.stat(), status)
    return count


def test_successor_closes_what_it_gets_but_nobody_mentions(estate: Estate, folder: Path) -> None:
    counts = []
    for more in (0, 20):  # the first is the control
        fds = estate.fds + estate.fds[:1] * more
        path = str(folder / "p")
        with Predecessor(path, estate.data, fds) as host, Successor(path) as successor:
            host.wait()
            assert host.has_successor
            with Query(estate.line.path) as query:  # whose listener it has
                query.measure()
            counts.append(copies_in(successor.pid, estate.fds[0]))
    assert counts[0] == counts[1]


def test_successor_ends_or_serves_whatever_descriptors_it_gets(estate: Estate, folder: Path) -> None:
    kinds = passable()
    assert len(estate.fds) > 15
    for index in range(len(estate.fds)):
        for kind in kinds if IS_LONG else [kinds[index % len(kinds)]]:
            with ExitStack() as stack:
                fds = list(estate.fds)
                fds[index] = KINDS[kind](stack)
                print(f"{kind} as descriptor {index}", flush=True)
                inherit(estate, folder / "p", estate.data, fds)


def test_successor_ends_or_serves_whatever_it_is_told(estate: Estate, folder: Path) -> None:
    seeded = random.Random(1)
    inherit(estate, folder / "p", estate.data, estate.fds[:3])  # too few
    for _ in range(2000 if IS_LONG else 20):
        data = bytearray(estate.data)
        for _ in range(seeded.choice((1, 1, 2, 5))):
            data[seeded.randrange(len(data))] = seeded.randrange(256)
        inherit(estate, folder / "p", bytes(data[: seeded.choice((len(data), len(data), 1000))]), estate.fds)


@needs_root
def test_successor_refuses_a_host_of_another_user(folder: Path) -> None:
    """It could have root remove any file: that of an object in /dev/shm."""
    folder.chmod(0o777)
    path = folder / "p"
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        Predecessor(str(path)).run()
        os._exit(0)
    wait_until(lambda: path.exists() and path.stat().st_mode & 0o777 == 0o666)
    with Successor(str(path)) as successor:
        code, log = successor.end()
    assert os.waitpid(pid, 0)[1] == 0
    assert code == 1
    assert "it is of uid 65534, and this is uid 0" in log
