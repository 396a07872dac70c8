"""Owners and readers in C, tortured as in `torture.c`, with a real host that grants and tells."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena_programs import STEPS, compile_changed, needs_compiler
from arena_support import ArenaPeer
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from support import Machine, RawPeer, wait_until

pytestmark = needs_compiler
REPORT = struct.Struct("<8Q2I")  # struct report of players.h
FINISH = REPORT.size - 8
READERS = 4


def board_of(path: str) -> tuple[RawPeer, int]:
    """Return a connection, and the descriptor of the host's board."""
    peer = RawPeer(path, greet=False)
    peer.send(pack(m.Hello(1, m.VERSION, m.VERSION, "board")))
    _, fds = descriptors.receive(peer.socket)
    return peer, fds.pop()


class Player:
    """A program that owns or reads an arena, and the connection that its rights come with."""

    def __init__(self, peer: ArenaPeer, process: subprocess.Popen[bytes]) -> None:
        self.peer = peer
        self.process = process
        self._is_stopped = False

    def toggle(self) -> None:
        self.process.send_signal(signal.SIGCONT if self._is_stopped else signal.SIGSTOP)
        self._is_stopped = not self._is_stopped

    def kill(self) -> None:
        """Kill the program; then its connection ends."""
        assert self.process.poll() is None, "it ended by itself"
        self.process.kill()
        self.process.wait()
        self.peer.close()


class Game:
    """An arena with its owner and readers, started as `shmclient exec` starts them."""

    def __init__(self, program: Path, path: str) -> None:
        self._program = program
        self._path = path
        self._peer, self._board = board_of(path)
        self._report = os.memfd_create("report")
        os.ftruncate(self._report, 4096)
        self._seed = 0
        self.owner: Player
        self.readers: list[Player] = []

    def figures(self) -> dict[str, int]:
        names = "gets missing joined torn puts full names_out generation finish is_clean"
        return dict(zip(names.split(), REPORT.unpack(os.pread(self._report, REPORT.size, 0)), strict=True))

    def looks(self) -> int:
        return self.figures()["gets"] + self.figures()["missing"]

    def start_owner(self) -> None:
        peer = ArenaPeer(self._path)
        owned = peer.make(size=1 << 20, max_size=6 << 20)
        grant, control = owned.made, owned.control.fileno()
        numbers = (grant.line, grant.region, grant.size, grant.span, grant.address, -1, -1)
        self.owner = Player(peer, self._start("own", numbers, owned.memory, control))
        owned.close()
        wait_until(lambda: self._current(peer) == grant.region)

    def _current(self, peer: ArenaPeer) -> int:
        reply = peer.ask(m.Stat(6, "camera"))[0]
        return reply.info.region if isinstance(reply, m.Described) else 0

    def start_reader(self) -> None:
        peer = ArenaPeer(self._path)
        opened, fds = peer.opened("camera")
        assert isinstance(peer.ask(m.Attend(5, opened.grants[0].region))[0], m.Done)
        grant = opened.grants[0]
        numbers = (grant.line, grant.region, grant.size + 4096, grant.capacity, grant.address, *fds[1:])
        self.readers.append(Player(peer, self._start("read", numbers, fds[0], -1)))
        descriptors.close_all(fds)

    def _start(
        self, role: str, numbers: tuple[int, ...], memory: int, control: int
    ) -> subprocess.Popen[bytes]:
        self._seed += 1
        line = " ".join(map(str, (memory, control, self._board, *numbers, "camera")))
        passed = [memory, control, self._board, self._report, *numbers[5:]]
        return subprocess.Popen(
            [self._program, role, "camera", str(self._report), str(self._seed)],
            pass_fds=[descriptor for descriptor in passed if descriptor >= 0],
            env=os.environ | {"SHM_ARENAS": line},
        )

    def advances(self) -> None:
        """See that all go on."""
        before = self.figures()
        wait_until(lambda: self.figures()["gets"] > before["gets"] + 100)
        wait_until(lambda: self.figures()["puts"] > before["puts"] + 100)
        assert self.figures()["torn"] == 0

    def finish(self) -> None:
        """Have all readers go, and see that the owner can use everything again then."""
        while self.readers:
            self.readers.pop().kill()
        os.pwrite(self._report, b"\1", FINISH)
        assert self.owner.process.wait(30) == 0
        self.owner.peer.close()

    def close(self) -> None:
        for player in [self.owner, *self.readers]:
            if player.process.poll() is None:
                player.kill()
            player.peer.close()
        self._peer.close()
        descriptors.close_all([self._board, self._report])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_changed("player", tmp_path_factory.mktemp("player"), STEPS)


@pytest.fixture
def game(machine: Machine, program: Path) -> Iterator[Game]:
    game = Game(program, machine.path)
    game.start_owner()
    for _ in range(READERS):
        game.start_reader()
    yield game
    game.close()


def step(game: Game, choose: random.Random) -> None:
    """Stop, continue or kill somebody; whoever is killed is followed by another."""
    action = choose.random()
    reader = choose.choice(game.readers)
    if action < 0.4:
        reader.toggle()
    elif action < 0.8:
        game.readers.remove(reader)
        reader.kill()
        game.start_reader()
    elif action < 0.95:
        game.owner.toggle()
        time.sleep(choose.random() / 500)
        game.owner.toggle()
    else:
        game.owner.kill()
        game.start_owner()
        while game.readers:
            game.readers.pop().kill()
        for _ in range(READERS):
            game.start_reader()


def play(game: Game, seed: int, seconds: float) -> None:
    choose = random.Random(seed)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not game.figures()["torn"]:
        step(game, choose)
    for reader in game.readers:
        if reader._is_stopped:
            reader.toggle()
    game.advances()


def test_torture_with_a_host(game: Game) -> None:
    play(game, 1, 2)
    game.finish()
    assert game.figures()["torn"] == 0


def test_readers_and_owner_go_on_without_their_host(game: Game, machine: Machine) -> None:
    game.advances()
    machine.signal(signal.SIGSTOP)
    game.advances()
    machine.kill()
    game.advances()
    game.readers.pop().kill()
    game.advances()


def test_owner_that_was_dropped_reuses_nothing_that_later_readers_hold(game: Game) -> None:
    """Its connection ended, and it writes on; the arena is still the current one of its name."""
    game.owner.peer.close()
    for _ in range(3):
        game.start_reader()
    wait_until(lambda: game.figures()["full"] > 1000)  # all that was free is in use
    looks = game.looks()
    wait_until(lambda: game.looks() > looks + 1000)
    assert game.figures()["torn"] == 0


@pytest.mark.torture
@pytest.mark.timeout(0)
@pytest.mark.parametrize("seed", range(3))
def test_torture_with_a_host_for_long(seed: int, game: Game) -> None:
    play(game, seed, 120)
    game.finish()
    assert game.figures()["torn"] == 0
