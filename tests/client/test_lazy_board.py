"""The board of a host before anybody looks at it: its descriptor is kept, and closed whatever comes next."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shmclient
import shmclient.aio
from support import Machine, in_child, wait_until

_before = [0, 0]  # descriptors and mappings of boards that the process had: others may have left a client


def kept() -> int:
    """Return how many descriptors of boards this test has. The host is another process."""
    count = -_before[0]
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the folder itself
            count += "board:shmhost" in os.readlink(path)
    return count


def mapped() -> int:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum("board:shmhost" in line for line in lines) - _before[1]


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    gc.collect()
    _before[:] = _before[0] + kept(), _before[1] + mapped()
    yield
    gc.collect()
    assert (kept(), mapped()) == (0, 0)


def test_a_board_is_mapped_for_the_first_who_looks(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        region, other = shm.put("x", b"1"), shm.open("x")
        assert (kept(), mapped()) == (1, 0)
        assert region.is_current()
        assert (kept(), mapped()) == (0, 2)  # its header page is a mapping of its own
        assert other.is_current()
        assert region._is_granted() is other._is_granted() is True
        del region, other


LOOKS: dict[str, Callable[[shmclient.Client], object]] = {
    "get": lambda shm: shm.get("x"),
    "get_many": lambda shm: shm.get_many(["x"]),
    "is_current": lambda shm: shm.open("x").is_current(),
    "follow": lambda shm: next(shm.follow("x")),
}


@pytest.mark.parametrize("how", LOOKS)
def test_whoever_looks_has_it_mapped(how: str, machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1").close()
        LOOKS[how](shm)
        assert kept() == 0


def test_closing_closes_a_board_that_nobody_looked_at(machine: Machine) -> None:
    shm = shmclient.connect(machine.path)
    view = shm.open("x").data if shm.exists("x") else shm.put("x", b"1").data
    assert kept() == 1
    shm.close()
    assert kept() == 0
    assert bytes(view) == b"1"


def test_a_client_that_is_dropped_closes_it(machine: Machine) -> None:
    shm = shmclient.connect(machine.path)
    assert kept() == 1
    del shm
    assert kept() == 0


def test_a_child_closes_it_and_the_parent_keeps_it(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        region = shm.put("x", b"1")

        def child() -> None:
            assert kept() == -_before[0]  # none at all
            assert region.is_current()  # by a connection of its own

        assert in_child(child) == 0
        assert kept() == 1
        assert region.is_current()


def test_a_region_of_a_dead_host_is_looked_up_on_its_board(machine: Machine) -> None:
    """The board is not gone with the connection: it has the last word of its host."""
    with shmclient.connect(machine.path) as shm:
        region = shm.put("x", b"1")
        machine.kill()
        assert kept() == 1
        assert region.is_current()
        assert region._is_granted() is None
        machine.start()
        assert shm.exists("x")  # it was handed back
        wait_until(region.is_current)


def test_the_board_of_a_host_that_is_gone_is_closed_with_the_next_connection(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1").close()
        machine.restart()
        assert not shm.exists("x")
        assert kept() == 1  # the new one


def test_many_threads_map_it_once(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        regions = [shm.put("x", b"1") if not i else shm.open("x") for i in range(8)]
        start = threading.Barrier(len(regions))
        answers: list[bool] = []

        def look(region: shmclient.Region) -> None:
            start.wait()
            answers.append(region.is_current() and region._is_granted() is True)

        threads = [threading.Thread(target=look, args=(region,)) for region in regions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [True] * len(regions)
        assert (kept(), mapped()) == (0, 2)
        del regions


def test_a_failed_greeting_closes_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from shmclient._drivers import sync

    greeted = sync.greeted

    def interrupted(*args: object) -> None:
        greeted(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(sync, "greeted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shmclient.connect(machine.path)
    assert kept() == 0


@pytest.mark.anyio
async def test_the_async_client_closes_it(machine: Machine, anyio_backend: str) -> None:
    async with shmclient.aio.AsyncClient(machine.path) as shm:
        await shm.exists("x")
        assert kept() == 1
    assert kept() == 0
