"""The fast road of an attach while other code runs in between: threads, and destructors in the collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import shmclient
from middle_support import EVENT, Middle, Part, files
from shmclient._drivers.sync import Channel
from support import Machine, wait_until


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    with shmclient.connect(machine.path) as shm:
        for name in ("a", "b"):
            shm.put(name, name.encode() * 10).close()
        yield shm
        wait_until(lambda: sum(info.leases for info in shm.list()) == 0)


class Halves:
    """Has a listener send what it hands back in two parts: the second one once `may_go` is set."""

    def __init__(self, at: int, more: bytes = b"", fds: Sequence[int] = ()) -> None:
        self.has_half, self.may_go = threading.Event(), threading.Event()
        self._at, self._more, self._fds = at, more, list(fds)

    def __call__(self, data: bytes, fds: list[int]) -> Iterator[Part]:
        data += self._more
        yield data[: self._at], self._fds or fds
        self.has_half.set()
        assert self.may_go.wait(20)
        yield data[self._at :], []


@pytest.fixture
def middle(machine: Machine, tmp_path: Path) -> Iterator[Middle]:
    middle = Middle(str(tmp_path / "middle.sock"), machine.path)
    yield middle
    middle.close()


def channel(client: shmclient.Client) -> Channel:
    assert client._core.channel is not None
    return client._core.channel


def test_error_in_a_thread_leaves_the_attach_of_another(shm: shmclient.Client, middle: Middle) -> None:
    """An error before anything was sent is not of the request that waits for the rest of its answer."""
    results: list[bytes] = []
    with shmclient.connect(middle.path, timeout=20) as client:
        middle.change = halves = Halves(9)
        thread = threading.Thread(target=lambda: results.append(bytes(client.open("a").data)))
        thread.start()
        assert halves.has_half.wait(20)
        wait_until(lambda: channel(client)._lane.unfinished)
        for name in ("../x", "../y"):
            with pytest.raises(shmclient.InvalidArgument):
                client.open(name)
        halves.may_go.set()
        thread.join(30)
        assert results == [b"a" * 10]


def test_error_before_the_rest_of_an_event_leaves_the_connection(
    shm: shmclient.Client, middle: Middle
) -> None:
    """The bytes behind the answer are the start of the next message, and are not lost."""
    with shmclient.connect(middle.path, timeout=20) as client, files(1) as null:
        first = channel(client)
        middle.change = halves = Halves(-len(EVENT) + 9, EVENT, null)
        with pytest.raises(shmclient.BadRegion):
            client.open("a")
        halves.may_go.set()
        assert client.exists("a")
        assert channel(client) is first
