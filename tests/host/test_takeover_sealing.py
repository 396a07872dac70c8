"""Takeovers while clients make the sealing of regions wait: it is given up, and nobody else notices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shmclient
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
from shmhost.serving.sealing import Sealers

publish = Memfd.publish

def wait(memory_object, header, seal):
    if os.path.isdir({folder!r}):
        tempfile.mkstemp(dir={folder!r})
        os.read(os.open({fifo!r}, os.O_RDONLY), 1)
    publish(memory_object, header, seal)

Memfd.publish = wait
Sealers.take = lambda *_: None
main()
"""


class Slow:
    """A line of hosts, the first of which seals nothing more when it is told so."""

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
        """Return when so many sealings wait."""
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
