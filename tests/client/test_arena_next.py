"""The next value of a name in an arena by the short road: one call that looks, sleeps, and holds it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shmclient
from arena_support import Sleepers
from shmclient import Arena
from support import WatchedHost, in_child, wait_until

SIZE = 8 << 20
NEVER = 1 << 40  # a generation that no value has

Next = Callable[[], bytes]  # returns the next value, when it is there


@pytest.fixture
def arena(shm: shmclient.Client) -> Iterator[Arena]:
    with shm.arena("camera", SIZE, names=100) as camera:
        camera["x"] = b"1"
        yield camera


class Other:
    """A client that reads, with `x` of the arena followed; its host knows that it may sleep."""

    def __init__(self, path: str) -> None:
        self.client = shmclient.connect(path)
        self.view = self.client.open_arena("camera")
        self.reader: Any = self.client._core.arenas["camera"]
        while not self.reader.is_attended:  # the time may be over before the host is told
            with pytest.raises(shmclient.WaitTimeout):
                self.view.wait("x", after=NEVER, wait=0.01)
        self._sleepers = Sleepers(self.reader)
        self.follow = self.client.follow("camera/x")
        assert bytes(next(self.follow)) == b"1"
        self.generation = self.view.open("x").generation

    def sleepers(self) -> int:
        return self._sleepers.count()

    def roads(self) -> dict[str, Next]:
        """Return the ways to wait for what is newer than the first value."""
        after, client, view = self.generation, self.client, self.view
        return {
            "follow": lambda: bytes(next(self.follow)),
            "wait": lambda: bytes(view.wait("x", after=after, wait=30).data),
            "get": lambda: bytes(client.get("camera/x", after=after, wait=30)),
            "open": lambda: bytes(client.open("camera/x", after=after, wait=30).data),
        }


ROADS = ["follow", "wait", "get", "open"]


@pytest.fixture
def other(host: WatchedHost, arena: Arena) -> Iterator[Other]:
    reader = Other(host.socket_path)
    with reader.client:
        yield reader


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch, other: Other) -> list[str]:
    """Note the operations that a client begins by the plain road."""
    names: list[str] = []
    drive = shmclient.Client._drive

    def note(self: shmclient.Client, operation: Any, channel: Any = None) -> Any:
        names.append(operation.__name__)
        return drive(self, operation, channel)

    monkeypatch.setattr(shmclient.Client, "_drive", note)
    return names


class Waiting:
    """A thread in a call; `end` returns its result, or the class of its error."""

    def __init__(self, call: Next) -> None:
        self._result: Any = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._result = type(error)

    def end(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        return self._result


@pytest.mark.parametrize("road", ROADS)
def test_value_that_is_there_comes_by_the_short_road(
    road: str, arena: Arena, other: Other, plain: list[str]
) -> None:
    arena["x"] = b"2"
    assert (other.roads()[road](), plain) == (b"2", [])


@pytest.mark.parametrize("road", ROADS)
def test_value_wakes_a_sleeper_of_the_short_road(
    road: str, arena: Arena, other: Other, plain: list[str]
) -> None:
    waiting = Waiting(other.roads()[road])
    wait_until(lambda: other.sleepers() == 1)
    arena["y"] = b"another name"
    arena["x"] = b"2"
    assert (waiting.end(), plain, other.sleepers()) == (b"2", [], 0)


def test_value_wakes_all_who_sleep(arena: Arena, other: Other, plain: list[str]) -> None:
    waits = [Waiting(road) for road in other.roads().values()]
    waits += [Waiting(other.roads()["wait"]) for _ in range(8)]
    wait_until(lambda: other.sleepers() == len(waits))
    arena["x"] = b"2"
    assert [waiting.end() for waiting in waits] == [b"2"] * len(waits)
    assert (plain, other.sleepers()) == ([], 0)


@pytest.mark.parametrize("road", ROADS)
def test_close_of_the_client_ends_a_sleep(road: str, other: Other) -> None:
    waiting = Waiting(other.roads()[road])
    wait_until(lambda: other.sleepers() == 1)
    other.client.close()
    assert (waiting.end(), other.sleepers()) == (shmclient.ClientClosed, 0)


def test_close_of_a_follow_ends_its_sleep(arena: Arena, other: Other) -> None:
    waiting = Waiting(other.roads()["follow"])
    wait_until(lambda: other.sleepers() == 1)
    other.follow.close()
    assert waiting.end() is StopIteration
    arena["x"] = b"2"
    assert list(other.follow) == []


@pytest.mark.parametrize("road", ROADS)
def test_sleep_goes_on_in_the_next_arena(
    road: str, shm: shmclient.Client, arena: Arena, other: Other
) -> None:
    waiting = Waiting(other.roads()[road])
    wait_until(lambda: other.sleepers() == 1)
    with shm.arena("camera", SIZE) as second:
        second["x"] = b"second"
        assert waiting.end() == b"second"


@pytest.mark.parametrize("road", ROADS)
def test_sleep_outlives_the_removal_of_the_name(road: str, arena: Arena, other: Other) -> None:
    waiting = Waiting(other.roads()[road])
    wait_until(lambda: other.sleepers() == 1)
    arena.remove("x")
    arena["x"] = b"2"
    assert waiting.end() == b"2"


@pytest.mark.parametrize("road", ["wait", "get", "open"])
def test_short_road_takes_the_time_that_was_asked_for(road: str, arena: Arena, other: Other) -> None:
    call: dict[str, Callable[[], object]] = {
        "wait": lambda: other.view.wait("x", after=NEVER, wait=0.02),
        "get": lambda: other.client.get("camera/x", after=NEVER, wait=0.02),
        "open": lambda: other.client.open("camera/x", after=NEVER, wait=0.02),
    }
    with pytest.raises(shmclient.WaitTimeout, match=r"no generation after 1099511627776 within 0\.02 s"):
        call[road]()
    assert other.sleepers() == 0


def test_numbers_that_no_generation_has_take_the_plain_road(other: Other) -> None:
    assert bytes(other.view.wait("x", after=-1, wait=0.001).data) == b"1"
    with pytest.raises(shmclient.WaitTimeout):
        other.view.wait("x", after=1 << 70, wait=0.001)


@pytest.mark.parametrize("road", ROADS)
def test_signal_handler_can_end_a_sleep(road: str, arena: Arena, other: Other) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: other.sleepers() == 1)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, ring)
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        with pytest.raises(Alarm):
            other.roads()[road]()
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert other.sleepers() == 0
    arena["x"] = b"2"
    assert other.roads()[road]() == b"2"


def test_sleep_goes_on_after_a_signal(arena: Arena, other: Other, plain: list[str]) -> None:
    seen: list[int] = []
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(lambda: other.sleepers() == 1)
        signal.pthread_kill(main, signal.SIGUSR1)
        wait_until(lambda: bool(seen))
        arena["x"] = b"2"

    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        assert bytes(next(other.follow)) == b"2"
        thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (seen, plain) == ([signal.SIGUSR1], [])


def test_child_of_a_fork_does_not_sleep_in_the_ledger_of_its_parent(arena: Arena, other: Other) -> None:
    reader = other.reader

    def child() -> None:
        for call in (
            lambda: reader._newer("x", 0),
            lambda: reader._await("x", NEVER, 0, 0, 1),
            lambda: reader._arm_for("x", NEVER),
            lambda: reader._arm(None),
            lambda: reader._sleep(None, 0, 0, 0, 0, 0, 0, 1),
        ):
            with pytest.raises(shmclient.InvalidArgument, match="before this process was forked"):
                call()
        with pytest.raises(shmclient.WaitTimeout):
            other.view.wait("x", after=NEVER, wait=0.02)
        timer = threading.Timer(0.02, other.follow.close)
        timer.start()
        assert list(other.follow) == []  # no value twice

    assert in_child(child) == 0
    arena["x"] = b"2"
    assert bytes(next(other.follow)) == b"2"


@pytest.mark.parametrize("road", ROADS)
def test_dropped_client_connects_anew_before_it_sleeps(road: str, host: WatchedHost, arena: Arena) -> None:
    before = host.call(lambda: set(host.host._links))
    other = Other(host.socket_path)
    host.call(lambda: [link.close() for link in set(host.host._links) - before])
    line: Any = other.client._core.channel
    wait_until(line._line.has_ended)
    waiting = Waiting(other.roads()[road])
    wait_until(lambda: other.client._core.arenas.get("camera") not in (None, other.reader))
    arena["x"] = b"2"
    assert waiting.end() == b"2"
    other.client.close()
