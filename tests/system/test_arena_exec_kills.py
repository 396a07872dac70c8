"""Programs in C that own and read arenas, while their host is killed and another one takes its place."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import shmclient
from native_support import ROOT, STRICT, WAYS
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from support import Machine, RawPeer, wait_until

EXAMPLES = ROOT / "examples"
WAY = next(iter(WAYS))  # that both languages work is tested elsewhere


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("arenas")
    sources = {name: EXAMPLES / f"{name}.c" for name in ("producer", "consumer")}
    sources["rejoin"] = Path(__file__).parents[1] / "arena" / "rejoin.c"
    built = {name: folder / name for name in sources}
    for name, path in built.items():
        checks = ("-fsanitize=address,undefined",) if name == "rejoin" else ()
        subprocess.run([*WAYS[WAY], *STRICT, *checks, sources[name], "-o", path], check=True)
    return built


def start(socket: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shmclient", "exec", "--socket", socket, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def producer(
    request: pytest.FixtureRequest, machine: Machine, programs: dict[str, Path]
) -> Iterator[subprocess.Popen[str]]:
    before = () if request.param == "rejoins" else ("env", "-u", "SHM_HOST")
    child = start(machine.path, "--arena", "camera=16M", "--", *before, programs["producer"], "camera")
    yield child
    child.kill()
    child.communicate()


class Rejoiner:
    """A program in C that owns an arena, and does what it is told."""

    def __init__(self, path: str, program: Path, *before: str) -> None:
        self.child = start(path, "--arena", "camera=1M", "--", *before, program, "camera")

    def descriptors(self) -> int:
        """Count what it has open."""
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def say(self, letter: str) -> int:
        """Have it put a value, or rejoin; return the error."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(f"{letter}\n")
        self.child.stdin.flush()
        return -int(self.child.stdout.readline().split()[0])

    def put(self, times: int = 1) -> None:
        assert [self.say("p") for _ in range(times)] == [0] * times

    def close(self) -> None:
        self.child.communicate(timeout=30)
        assert self.child.returncode == 0


def is_whole(frame: np.ndarray) -> bool:
    pattern = np.add.outer(np.arange(480), np.arange(640)) + int(frame[0, 0])
    return bool((frame == pattern.astype("u1")).all())


@pytest.mark.parametrize("producer", ["rejoins"], indirect=True)
def test_owner_in_c_is_the_owner_at_the_next_host(machine: Machine, producer: subprocess.Popen[str]) -> None:
    with shmclient.connect(machine.path) as old, contextlib.ExitStack() as stack:
        first = old.get("camera/front", wait=30)
        held = [(first, first.copy())]
        for _ in range(3):
            machine.restart()
            new = stack.enter_context(shmclient.connect(machine.path))
            frame = new.get("camera/front", wait=30)
            held.append((frame, frame.copy()))
            shown = int(new.get("camera/front")[0, 0])
            wait_until(lambda shown=shown, new=new: int(new.get("camera/front")[0, 0]) != shown)
            frames = [client.get("camera/front") for client in (old, new) for _ in range(20)]
            assert all(map(is_whole, frames))
            assert all((value == copy).all() for value, copy in held)
        producer.kill()
        producer.wait()
        assert is_whole(old.get("camera/front"))


def test_each_end_of_rejoining(machine: Machine, programs: dict[str, Path]) -> None:
    with contextlib.closing(Rejoiner(machine.path, programs["rejoin"])) as owner:
        owner.put()
        assert owner.say("r") == 0
        with shmclient.connect(machine.path) as shm:
            value = shm.get("camera/x", wait=30)
        machine.kill()
        assert owner.say("r") == errno.EAGAIN
        owner.put(100)
        machine.start()
        assert owner.say("r") == 0
        with shmclient.connect(machine.path) as shm:
            second = shm.get("camera/x", wait=30)
            owner.put(100)
            assert (bytes(value[:1]), bytes(second[:1])) == (b"\1", b"\x65")
            assert owner.say("r") == 0
            assert shm.stat("camera").leases == 3
        machine.kill()
        Path(f"{machine.path}.state").unlink()  # the next host is of another family
        machine.start()
        assert owner.say("r") == errno.ENOENT
        owner.put(100)


def answers(welcome: m.Welcome) -> list[tuple[bytes, bytes, tuple[int, ...]]]:
    """Return what a hostile host may say to Hello and to RestoreArena, with descriptors of that."""
    whole, nonsense = (
        pack(welcome),
        [b"", bytes(4), b"\xff" * 40, b"\1\0\0\0\x94", b"\x0f\0\0\0" + b"\xcf" * 15],
    )
    restored, (reader, writer) = pack(m.ArenaRestored(2, True)), os.pipe()
    os.close(writer)
    said = [(each, b"", ()) for each in nonsense] + [(whole[:size], b"", ()) for size in range(1, 40, 7)]
    said += [(whole, each, ()) for each in (*nonsense, pack(m.Done(2)), restored)]
    said += [(whole, pack(m.Refused(2, code, "no")), ()) for code in ("busy", "not-found", "x" * 100)]
    several = (os.dup(reader), os.dup(reader))  # which fit into room for one: the kernel's is rounded up
    said += [(pack(m.Goodbye(0, "full")), b"", ()), (whole, restored, several)]
    return [*said, (whole, restored, (reader,))]


def answer(listener: socket.socket, first: bytes, second: bytes, fds: tuple[int, ...]) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.settimeout(30)
        for data, some in ((first, ()), (second, fds)):
            with contextlib.suppress(OSError):
                if sock.recv(1000):
                    descriptors.send(sock, data, some, 0)


def test_nonsense_of_a_host_does_no_harm(machine: Machine, programs: dict[str, Path]) -> None:
    with contextlib.closing(Rejoiner(machine.path, programs["rejoin"])) as owner:
        owner.put()
        with RawPeer(machine.path, greet=False) as peer:
            welcome, _ = peer.ask(m.Hello(1, m.RESTORE_VERSION, m.RESTORE_VERSION, "raw"))
        assert isinstance(welcome, m.Welcome)
        family = welcome.host.rpartition(".")[0]
        machine.kill()
        os.unlink(machine.path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(machine.path)
            listener.listen()
            before = owner.descriptors()
            for said in answers(welcome._replace(host=f"{family}.999", board=(0, 0))):
                host = threading.Thread(target=answer, args=(listener, *said))
                host.start()
                assert owner.say("r") in (errno.EAGAIN, errno.ENOENT, errno.EPROTO, errno.EMFILE), said
                host.join()
                close_all(said[2])
                owner.put()
                assert owner.descriptors() == before, said
        os.unlink(machine.path)
        machine.start()
        assert owner.say("r") == 0
        with shmclient.connect(machine.path) as shm:
            assert len(shm.get("camera/x", wait=30)) == 60_000
            owner.put(100)


def test_program_that_is_told_of_no_host_does_not_rejoin(machine: Machine, programs: dict[str, Path]) -> None:
    alone = Rejoiner(machine.path, programs["rejoin"], "env", "-u", "SHM_HOST")
    with contextlib.closing(alone) as owner:
        assert owner.say("r") == errno.ENOTSUP
        owner.put(3)


@pytest.mark.parametrize(
    "text", ["", "x", "5", "5 ", "5 a.1", "5 a.1 ", "-1 a.1 /x", "99999999999 a.1 /x", "5 a.1 " + "x" * 200]
)
def test_other_texts_in_place_of_the_host_are_none(
    text: str, machine: Machine, programs: dict[str, Path]
) -> None:
    other = Rejoiner(machine.path, programs["rejoin"], "env", f"SHM_HOST={text}")
    with contextlib.closing(other) as owner:
        assert owner.say("r") == errno.ENOTSUP


@pytest.mark.parametrize("producer", ["alone"], indirect=True)
def test_owner_in_c_writes_on_and_lets_new_readers_in_when_it_has_ended(
    machine: Machine, producer: subprocess.Popen[str]
) -> None:
    with shmclient.connect(machine.path) as old:
        held = old.get("camera/front", wait=30)
        copy = held.copy()
        for _ in range(2):
            machine.restart()
            first = old.stat("camera").generation
            shown = int(old.get("camera/front")[0, 0])
            wait_until(lambda shown=shown: int(old.get("camera/front")[0, 0]) != shown)  # it writes on
            frames = [old.get("camera/front") for _ in range(20)]
            assert all(map(is_whole, frames))
            assert (held == copy).all()
            with shmclient.connect(machine.path) as new:
                assert new.stat("camera").generation == first
                with pytest.raises(shmclient.RegionNotFound):
                    new.get("camera/front")
        with shmclient.connect(machine.path) as new:
            producer.kill()
            producer.wait()
            last = new.get("camera/front", wait=30)
            assert is_whole(last)
            assert (last == old.get("camera/front")).all()
            assert (held == copy).all()
            new.unlink("camera")
            with new.arena("camera", size=1 << 20) as again:
                again["front"] = b"1"
                assert bytes(old.get("camera/front")) == b"1"


def test_reader_in_c_reads_on_and_holds_what_it_holds(machine: Machine, programs: dict[str, Path]) -> None:
    with shmclient.connect(machine.path) as shm, shm.arena("camera", size=1 << 20) as arena:
        arena["front"] = np.full(60_000, 1, "u1")
        reader = start(machine.path, "--region", "camera", "--", programs["consumer"], "camera", "front", 90)
        assert reader.stdout is not None
        lines = [reader.stdout.readline().split()]
        for number in range(2, 91):
            if number % 30 == 0:
                machine.restart()
                with shmclient.connect(machine.path) as new:
                    value = new.get("camera/front", wait=30)
                    assert (value == number - 1).all()
            generation = arena.put("front", np.full(60_000, number, "u1"))
            lines.append(reader.stdout.readline().split())
            assert lines[-1][:3] == [str(generation), "60000", str(60_000 * number)]
        assert reader.communicate(timeout=30)[1] == ""
        assert reader.returncode == 0
        with shmclient.connect(machine.path) as other:
            wait_until(lambda: other.stat("camera").leases <= 3)
        for number in range(100):  # the ledger of the program has gone with it: there is room
            arena["front"] = np.full(60_000, number, "u1")
