"""Owners and readers that are killed or stopped, each a process of its own, on a host that is one, too."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from arena_support import SIZE, ArenaPeer, Board, Owned
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.names import ARENA_GROW, ARENA_READY
from support import Machine, wait_until

KILLS = 150 if os.environ.get("HYPOTHESIS_PROFILE") == "fuzz" else 15


class Child:
    """A process that has said that it is so far, and then sleeps until it is killed."""

    def __init__(self, function: Callable[[], object]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.alarm(60)
                self.parts = function()
                os.write(write, b"x")
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as said:
            self.is_so_far = said.read(1) == b"x"

    def kill(self) -> None:
        """Kill it; may be called again."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.pid = 0


@contextlib.contextmanager
def child(function: Callable[[], object]) -> Iterator[Child]:
    process = Child(function)
    assert process.is_so_far
    yield process
    process.kill()


@pytest.fixture
def peer(machine: Machine) -> Iterator[ArenaPeer]:
    with ArenaPeer(machine.path) as peer:
        yield peer


def measure(peer: ArenaPeer) -> m.Measured:
    measured, _ = peer.ask(m.Measure(3))
    assert isinstance(measured, m.Measured)
    return measured


def is_empty(peer: ArenaPeer) -> bool:
    now = measure(peer)
    return (now.used, now.arenas, now.ledgers, now.clients) == (0, 0, 0, 1)


@pytest.mark.parametrize("is_ready", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_killed_owner_leaves_what_it_asked_for(
    machine: Machine, peer: ArenaPeer, keep: bool, is_ready: bool
) -> None:
    def own() -> object:
        owner = ArenaPeer(machine.path)
        owned = owner.make(keep=keep, max_size=4 * SIZE)
        os.pwrite(owned.memory, b"value", 4096)
        if is_ready:
            assert owned.ready() == 0
        return owner, owned

    with child(own) as owner:
        memory = peer.opened("camera")[1] if is_ready else []
        owner.kill()
        wait_until(lambda: measure(peer).clients == 1)
    if is_ready:
        assert os.pread(memory[0], 5, 4096) == b"value"
        descriptors.close_all(memory)
    if is_ready and keep:
        assert peer.open("camera/front").grants[0].name == "camera"
        peer.ask(m.Unlink(4, "camera"))
    assert peer.refusal(m.Open(4, ("camera",), (), False)).code == "not-found"
    assert measure(peer).arenas == (1 if is_ready else 0)  # as long as it is leased here


def test_owner_is_told_of_a_killed_reader_within_a_second(machine: Machine, peer: ArenaPeer) -> None:
    owned = peer.publish()

    def read() -> object:
        reader = ArenaPeer(machine.path)
        return reader, reader.opened("camera/front")

    times_s = []
    for _ in range(3):
        with child(read):
            number = owned.ledger()
        began = time.monotonic()
        assert owned.forgotten() == number
        times_s.append(time.monotonic() - began)
    assert min(times_s) < 1  # the others may be the machine's


def test_reader_that_is_stopped_keeps_its_ledger(machine: Machine, peer: ArenaPeer) -> None:
    owned = peer.publish()

    def read() -> object:
        reader = ArenaPeer(machine.path)
        return reader, reader.opened("camera")

    with child(read) as reader:
        number = owned.ledger()
        os.kill(reader.pid, signal.SIGSTOP)
        assert owned.grow(SIZE) == (0, SIZE)
        assert measure(peer).ledgers == 1
    assert owned.forgotten() == number


def test_owner_that_is_stopped_keeps_nobody_waiting(machine: Machine, peer: ArenaPeer) -> None:
    def own() -> object:
        owner = ArenaPeer(machine.path)
        return owner, owner.publish()

    with child(own) as owner:
        os.kill(owner.pid, signal.SIGSTOP)
        for _ in range(300):
            with ArenaPeer(machine.path) as reader:
                reader.open("camera")
        wait_until(lambda: measure(peer).ledgers == 0)
    peer.ask(m.Unlink(4, "camera"))
    wait_until(lambda: is_empty(peer))


def test_host_that_is_killed_leaves_memory_and_ends_the_conversation(machine: Machine) -> None:
    with ArenaPeer(machine.path) as owner, ArenaPeer(machine.path) as reader:
        owned = owner.publish()
        _, fds = reader.opened("camera")
        machine.kill()
        assert owned.is_ended()
        assert os.fstat(fds[0]).st_size == SIZE
        os.pwrite(fds[1], b"held", 4096)
        descriptors.close_all(fds)


def test_next_host_takes_the_name_of_an_arena(machine: Machine) -> None:
    with ArenaPeer(machine.path) as owner:
        first = owner.publish().made
        machine.restart()
        with ArenaPeer(machine.path) as again:
            assert again.publish().made.generation > first.generation


def restlessly(path: str, seed: int) -> None:
    """Make, grow, open and leave arenas, until somebody kills this."""
    choose = random.Random(seed)
    while True:
        with ArenaPeer(path) as peer:
            for _ in range(choose.randrange(1, 6)):
                keep = choose.random() < 0.5
                reply, fds = peer.ask(m.Arena(2, "camera", SIZE, 4 * SIZE, 0o666, True, keep))
                if isinstance(reply, m.ArenaMade):
                    owned = Owned(reply, *fds)
                    owned.send(ARENA_READY)
                    for _ in range(choose.randrange(3)):
                        owned.send(ARENA_GROW, choose.randrange(5) * SIZE)
                _, fds = peer.ask(m.Open(3, ("camera/front",), (), False))
                descriptors.close_all(fds)


def restless_child(path: str, seed: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            restlessly(path, seed)
        finally:
            os._exit(1)
    return pid


@pytest.mark.timeout(300)
def test_clients_that_are_killed_anywhere_leave_nothing(machine: Machine, peer: ArenaPeer) -> None:
    choose = random.Random(12)
    for seed in range(KILLS):
        pids = [restless_child(machine.path, 2 * seed + which) for which in range(2)]
        time.sleep(choose.random() / 10)  # that is when they are killed
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        wait_until(lambda: measure(peer).clients == 1)
        peer.ask(m.Unlink(4, "camera"))
        wait_until(lambda: is_empty(peer), shown=lambda: measure(peer))


def test_board_is_what_the_owner_heard_after_kills(machine: Machine, peer: ArenaPeer) -> None:
    owned = peer.publish()
    board = Board(machine.path)

    def read() -> object:
        reader = ArenaPeer(machine.path)
        return reader, reader.opened("camera/front")

    for _ in range(20):
        with child(read):
            pass
    wait_until(lambda: measure(peer).ledgers == 0)
    heard = board.line(owned.made.line).ledgers
    for _ in range(heard):
        descriptors.close_all(owned.receive().descriptors)
    assert owned.grow(SIZE) == (0, SIZE)
    assert board.line(owned.made.line).ledgers == heard
    board.close()
