"""Takeovers while clients make sealing or growing wait: it is given up, and nobody else notices."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shmclient
from arena_support import ARENA_GROW, ARENA_READY, SIZE, ArenaPeer
from held_support import blocked_write, is_held_up
from shmprotocol.errors import RegionBusy
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import pack
from shmprotocol.wire.descriptors import close_all
from shmprotocol.wire.query import Query
from support import RawPeer, wait_until
from takeover_support import HalfSuccessor, Line, line_of_hosts

# As I/O of a client does that holds pages of the region, only longer.
SLOW = """
import os, tempfile
from shmhost.cli import main
from shmhost.core.objects import Memfd
from shmhost.machine.arena_memory import ArenaMemory
from shmhost.serving.sealing import Sealers

def slow(call):
    def wait(*arguments):
        if os.path.isdir({folder!r}):
            tempfile.mkstemp(dir={folder!r})
            os.read(os.open({fifo!r}, os.O_RDONLY), 1)
        call(*arguments)

    return wait

Memfd.publish, ArenaMemory.grow = slow(Memfd.publish), slow(ArenaMemory.grow)
Sealers.take = lambda *_: None
main()
"""


class Slow:
    """A line of hosts, the first of which seals no region more, and no arena grows, when it is told so."""

    def __init__(self, line: Line, folder: Path) -> None:
        self.line = line
        self._folder = folder / "slow"
        self._fifo = folder / "fifo"
        os.mkfifo(self._fifo)
        line.close()
        program = SLOW.format(folder=str(self._folder), fifo=str(self._fifo))
        line.child = line._start(program=("-c", program))

    def begin(self) -> None:
        self._folder.mkdir()

    def wait(self, count: int) -> None:
        """Return when so many calls wait."""
        wait_until(lambda: len(list(self._folder.iterdir())) == count)

    def end(self) -> None:
        """Let one go on."""
        with self._fifo.open("wb") as stream:
            stream.write(b"1")


@pytest.fixture
def slow(folder: Path) -> Iterator[Slow]:
    with line_of_hosts(folder / "h") as line:
        yield Slow(line, folder)


def build(shm: shmclient.Client, name: str) -> None:
    with shm.create(name, 100) as builder:
        builder.data[:4] = b"1234"


def states(path: str) -> dict[str, int]:
    with Query(path) as query:
        return {total.state: total.regions for total in query.measure().totals if total.regions}


def test_sealing_is_given_up_and_all_others_are_served(slow: Slow) -> None:
    path = slow.line.path
    with shmclient.connect(path, reserve=1 << 20) as first, ThreadPoolExecutor() as pool:  # noqa: SIM117
        with shmclient.connect(path) as second, shmclient.connect(path) as other:
            first.put("a", b"1" * 50_000).close()
            slow.begin()
            again = pool.submit(first.put, "a", b"2" * 50_000)  # which takes a spare
            built = pool.submit(build, second, "b")
            slow.wait(2)
            gets = pool.submit(lambda: [bytes(other.get("a"))[:1] for _ in range(10_000)])
            slow.line.take_over()
            assert set(gets.result(30)) == {b"1"}
            for future in (again, built):
                with pytest.raises(RegionBusy, match="another host has taken over"):
                    future.result(30)
            assert bytes(other.get("a")) == b"1" * 50_000
            first.put("a", b"3" * 50_000).close()
            build(second, "b")
            assert bytes(other.get("a")) == b"3" * 50_000
            assert bytes(other.get("b"))[:4] == b"1234"
    wait_until(lambda: states(path) == {"current": 2})


def test_client_that_has_gone_leaves_nothing(slow: Slow) -> None:
    path = slow.line.path
    with RawPeer(path) as peer:
        created, fds = peer.ask(m.Create(2, "x", 100, "full", "memfd", 0o600, False))
        assert isinstance(created, m.Created)
        close_all(fds)
        slow.begin()
        peer.send(pack(m.Publish(3, created.region, 1, 100, 0, 0, 0, 0)))
        slow.wait(1)
    slow.line.take_over()
    wait_until(lambda: states(path) == {})
    with shmclient.connect(path) as shm:
        shm.put("x", b"1").close()
        assert bytes(shm.get("x")) == b"1"


def test_sealing_goes_on_when_the_successor_dies(slow: Slow) -> None:
    path = slow.line.path
    with shmclient.connect(path) as shm, ThreadPoolExecutor() as pool:
        slow.begin()
        built = pool.submit(build, shm, "b")
        slow.wait(1)
        half = HalfSuccessor(path)
        half.ask()
        half.hear()
        half.start()
        half.read_all()
        half.die()
        wait_until(lambda: states(path) == {"creating": 1})
        assert not built.done()
        slow.end()
        built.result(30)
        assert states(path) == {"current": 1}
        assert bytes(shm.get("b"))[:4] == b"1234"


def test_arena_whose_growing_waits_can_grow_at_the_successor(slow: Slow) -> None:
    """Nobody can hold the lock of an arena for long, once it is sealed; a busy machine can."""
    path = slow.line.path
    with ArenaPeer(path) as peer:
        owned = peer.publish("a", max_size=4 * SIZE)
        before = charged(path)
        slow.begin()
        owned.send(ARENA_GROW, 2 * SIZE)
        slow.wait(1)
        slow.line.take_over()
        note = owned.receive()
        assert (note.kind, note.code, note.size) == (ARENA_GROW, errno.EBUSY, SIZE)
        assert charged(path) == before
        assert owned.grow(3 * SIZE) == (0, 3 * SIZE)
        assert charged(path) == before + 2 * SIZE


def test_arena_whose_owner_is_gone_while_it_grows_moves_on(slow: Slow) -> None:
    path = slow.line.path
    with ArenaPeer(path) as peer:
        owned = peer.publish("a", max_size=4 * SIZE)
        slow.begin()
        owned.send(ARENA_GROW, 2 * SIZE)
        slow.wait(1)
    wait_until(lambda: clients(path) == 1)  # who asks
    slow.line.take_over()
    assert not has_owner(path, "a")
    assert states(path) == {"current": 1}


# --- with locks that are really held: the thread of the old host does not even die


def test_lock_that_is_held_keeps_nothing_but_the_thread_that_waits(folder: Path) -> None:
    """The successor seals once the lock is free; after its own death the next host can start before that."""
    with line_of_hosts(folder / "h") as line, shmclient.connect(line.path) as shm, RawPeer(line.path) as peer:
        shm.put("x", b"1").close()
        created, (descriptor,) = peer.ask(m.Create(2, "held", 100, "full", "memfd", 0o600, True))
        assert isinstance(created, m.Created)
        with blocked_write(descriptor):
            first = line.child
            peer.send(pack(m.Publish(3, created.region, 1, 100, 0, 0, 0, 0)))
            wait_until(lambda: is_held_up(first.pid))
            line.child = line._start("--takeover")
            reply, _ = peer.receive()
            assert isinstance(reply, m.Refused)
            assert (reply.id, reply.code) == (3, "busy")
            assert bytes(shm.get("x")) == b"1"
            wait_until(lambda: ") Z " in Path(f"/proc/{first.pid}/stat").read_text())  # but for that thread
            assert is_held_up(first.pid)
            line.kill_and_start()
            shm.put("x", b"2").close()
        os.close(descriptor)
        first.communicate(timeout=30)


def test_arena_whose_sealing_waits_can_be_published_at_the_successor(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line, ArenaPeer(line.path) as peer:
        owned = peer.make("a", max_size=4 * SIZE)
        with blocked_write(owned.memory):
            first = line.child
            owned.send(ARENA_READY)
            wait_until(lambda: is_held_up(first.pid))
            line.child = line._start("--takeover")
            note = owned.receive()
            assert (note.kind, note.code) == (ARENA_READY, errno.EBUSY)
        first.communicate(timeout=30)
        assert owned.ready() == 0
        assert states(line.path) == {"current": 1}


def test_region_whose_growing_waits_can_grow_at_the_successor(folder: Path) -> None:
    with line_of_hosts(folder / "h") as line, RawPeer(line.path) as peer:
        create = m.Create(2, "r", 4096, "shared", "memfd", 0o600, True, max_size=1 << 20)
        created, (descriptor,) = peer.ask(create)
        assert isinstance(created, m.Created)
        published, fds = peer.ask(m.Publish(3, created.region, 1, 4096, 0, 0, 0, 0))
        assert isinstance(published, m.Published)
        close_all(fds)
        before = charged(line.path)
        with blocked_write(descriptor):
            first = line.child
            peer.send(pack(m.Resize(4, created.region, 8192)))
            wait_until(lambda: is_held_up(first.pid))
            line.child = line._start("--takeover")
            reply, _ = peer.receive()
            assert isinstance(reply, m.Refused)
            assert (reply.id, reply.code) == (4, "busy")
            assert charged(line.path) == before
        first.communicate(timeout=30)
        assert peer.ask(m.Resize(5, created.region, 8192))[0] == m.Done(5)
        assert peer.ask(m.Resize(6, created.region, 1 << 19))[0] == m.Done(6)
        assert charged(line.path) > before + (1 << 18)
        os.close(descriptor)


def clients(path: str) -> int:
    with Query(path) as query:
        return query.measure().clients


def has_owner(path: str, name: str) -> bool:
    with Query(path) as query:
        return query.stat(name).arena.has_owner


def charged(path: str) -> int:
    with Query(path) as query:
        return sum(total.capacity for total in query.measure().totals)
