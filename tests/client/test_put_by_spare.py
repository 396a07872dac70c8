"""Spares in a client: what is asked for and taken, a put by one, and the ways back without one."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shmclient
import shmclient.aio
from shmclient._drivers import putting
from shmclient._regions.spares import BATCH, LOOP_S, UNASKED_MAX, Spares
from shmprotocol.abi.header import HEADER_SIZE
from shmprotocol.kernel.constants import MIB
from shmprotocol.wire import messages as m
from shmprotocol.wire.descriptors import Owned
from support import WatchedHost, count_descriptors, read_tasks, wait_until, watched_host

LARGE = bytes(range(256)) * 1024  # 256 KiB: more than goes with a request


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Outbox:
    """What a Creation needs of an outbox; keeps what it is told to give back."""

    def __init__(self) -> None:
        self.given: list[m.Message | None] = []

    def hold(self, key: object) -> None:
        pass

    def give_back(self, key: object, message: m.Message | None = None) -> None:
        self.given.append(message)


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spares(outbox: Outbox, clock: Clock) -> Iterator[Spares]:
    spares = Spares(outbox, clock)  # type: ignore[arg-type]
    yield spares
    spares.close()


def arrive(spares: Spares, *payloads: int) -> None:
    ahead = tuple(m.Spare(size, 0, HEADER_SIZE + size) for size in payloads)
    spares.add(ahead, Owned([os.memfd_create("spare") for _ in payloads]))


def test_one_is_asked_for_when_puts_follow_each_other(spares: Spares, clock: Clock) -> None:
    assert spares.wanted(MIB) == ()
    clock.now += LOOP_S / 2
    assert spares.wanted(MIB) == (MIB,)
    clock.now += LOOP_S
    assert spares.wanted(MIB) == ()


@pytest.mark.parametrize(("size", "count"), [(UNASKED_MAX, 1), (UNASKED_MAX + 1, 0)])
def test_none_is_asked_for_when_it_would_be_large(size: int, count: int, spares: Spares) -> None:
    spares.wanted(size)
    assert len(spares.wanted(size)) == count


def test_none_is_asked_for_while_there_is_one(spares: Spares) -> None:
    spares.wanted(MIB)
    arrive(spares, 4096)
    assert spares.wanted(MIB) == ()


def test_reserve_is_filled_in_batches_when_half_of_it_is_used(spares: Spares) -> None:
    spares.reserve = 10 * (MIB + HEADER_SIZE)
    assert spares.wanted(MIB) == (MIB,) * 10
    arrive(spares, *[MIB] * 6)
    assert spares.wanted(MIB) == ()
    spares.take(MIB)
    assert spares.wanted(MIB) == (MIB,) * 5
    spares.reserve = 1000 * MIB
    assert spares.wanted(MIB) == (MIB,) * BATCH


def test_smallest_that_has_room_is_taken(spares: Spares) -> None:
    arrive(spares, 3 * 4096, 4096, 2 * 4096)
    taken = [spares.take(size) for size in (4097, 4097, 4097, 4096, 1)]
    assert [spare.region if spare else None for spare in taken] == [2 * 4096, 3 * 4096, None, 4096, None]


def test_end_gives_all_back_and_takes_no_more(spares: Spares, outbox: Outbox) -> None:
    before = count_descriptors()
    arrive(spares, 4096, 8192)
    spares.close()
    arrive(spares, 12288)
    assert outbox.given == [m.Abort(0, size, False) for size in (4096, 8192, 12288)]
    assert count_descriptors() == before
    assert (spares.take(1), spares.wanted(MIB)) == (None, ())


def test_spare_without_a_descriptor_is_given_back(spares: Spares, outbox: Outbox) -> None:
    spares.add((m.Spare(1, 0, 8192), m.Spare(2, 0, 8192)), Owned([os.memfd_create("spare")]))
    assert outbox.given == [m.Abort(0, 2, False)]
    taken = spares.take(1)
    assert taken is not None
    assert taken.region == 1


# --- with a host


def timings(shm: shmclient.Client, host: WatchedHost) -> dict[str, int]:
    latencies = host.host._hub.meter.latencies
    counted: dict[str, int] = host.call(lambda: {name: item.count for name, item in latencies.items()})
    return counted


def ahead(shm: shmclient.Client) -> Spares:
    assert shm._core.channel is not None
    return shm._core.channel.context.spares


def test_puts_that_follow_each_other_take_one_request_each(host: WatchedHost, shm: shmclient.Client) -> None:
    for number in range(6):
        with shm.put(f"name/{number}", LARGE[number:]) as region:
            assert bytes(region.data) == LARGE[number:]
            assert region.metadata["size"] == len(LARGE) - number
    counts = timings(shm, host)
    assert (counts["create"], counts["publish"], counts["assign"]) == (2, 2, 4)
    assert [info.name for info in shm.list()] == [f"name/{number}" for number in range(6)]


def test_put_by_a_spare_is_refused_as_any_other(host: WatchedHost, shm: shmclient.Client) -> None:
    for _ in range(2):
        shm.put("a", LARGE).close()
    with pytest.raises(shmclient.RegionExists):
        shm.put("a", LARGE, replace=False)
    for _ in range(2):
        shm.put("a", LARGE).close()
    with pytest.raises(shmclient.InvalidArgument):
        shm.put("../a", LARGE)
    assert bytes(shm.get("a")) == LARGE


def test_progress_of_a_put_by_a_spare_is_told(host: WatchedHost, shm: shmclient.Client) -> None:
    for _ in range(2):
        shm.put("a", LARGE).close()
    done: list[int] = []
    shm.put("a", LARGE, progress=done.append).close()
    assert len(done) == 1
    assert done[0] > len(LARGE)
    assert timings(shm, host)["assign"] == 1

    def stop(_done: int) -> None:
        raise RuntimeError("enough")

    generation = shm.stat("a").generation
    with pytest.raises(RuntimeError, match="enough"):
        shm.put("a", LARGE, progress=stop)
    assert shm.stat("a").generation == generation


def test_put_succeeds_when_the_host_has_taken_the_spare_back(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    for _ in range(2):
        shm.put("a", LARGE).close()
    assert host.call(lambda: host.host._hub.recall()) is not None
    wait_until(lambda: "spare" not in host.call(host.host.registry.tallies.states))
    shm.put("a", LARGE[1:]).close()  # its write meets an empty object
    assert bytes(shm.get("a")) == LARGE[1:]


def test_put_succeeds_when_the_spare_goes_between_write_and_request(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    for _ in range(2):
        shm.put("a", LARGE).close()

    def take_back(_done: int) -> None:
        if host.call(lambda: host.host._hub.recall()) is not None:
            wait_until(lambda: "spare" not in host.call(host.host.registry.tallies.states))

    shm.put("a", LARGE[1:], progress=take_back).close()
    assert timings(shm, host)["assign"] == 1
    assert bytes(shm.get("a")) == LARGE[1:]


def test_idle_spare_is_taken_back(host: WatchedHost, shm: shmclient.Client) -> None:
    before = host.counts()
    for _ in range(2):
        shm.put("a", LARGE).close()
    spare = ahead(shm).take(1)
    assert spare is not None
    wait_until(lambda: os.fstat(spare.fileno()).st_size == 0)
    spare.abort()
    shm.unlink("a")
    wait_until(lambda: host.is_back_at(before), shown=lambda: (host.counts(), before))


def test_spares_make_room_when_the_budget_is_short(tmp_path: Path) -> None:
    with (
        watched_host(str(tmp_path / "h.sock"), budget=7 * MIB) as host,
        shmclient.connect(host.socket_path) as shm,
        shmclient.connect(host.socket_path) as other,
    ):
        for _ in range(2):
            shm.put("a", bytes(MIB)).close()
        other.put("b", bytes(5 * MIB)).close()
        assert "spare" not in host.call(host.host.registry.tallies.states)
        with pytest.raises(shmclient.QuotaExceeded):
            other.put("c", bytes(2 * MIB))
        shm.put("a", bytes(MIB // 2)).close()


def test_closed_client_leaves_no_spare(host: WatchedHost) -> None:
    before = host.counts()
    with shmclient.connect(host.socket_path) as shm:
        for _ in range(2):
            shm.put("a", LARGE).close()
        assert "spare" in host.call(host.host.registry.tallies.states)
        shm.unlink("a")
    wait_until(lambda: host.is_back_at(before), shown=lambda: (host.counts(), before))


def test_client_that_is_forgotten_leaves_no_spare(host: WatchedHost) -> None:
    before = host.counts()
    shm = shmclient.connect(host.socket_path, reserve=MIB)
    shm.put("a", LARGE).close()
    shm.unlink("a")
    del shm
    gc.collect()
    wait_until(lambda: host.is_back_at(before), shown=lambda: (host.counts(), before))


def test_child_of_a_fork_does_not_keep_the_spares(host: WatchedHost, shm: shmclient.Client) -> None:
    for _ in range(2):
        shm.put("a", LARGE).close()
    (spare,) = ahead(shm)._rooms
    descriptor = spare.fileno()
    child = os.fork()
    if not child:
        try:
            os.fstat(descriptor)
        except OSError:
            shm.put("child's", LARGE).close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    shm.put("a", LARGE).close()
    assert timings(shm, host)["assign"] == 1
    assert shm.exists("child's")


def test_host_of_version_1_is_asked_in_two_steps(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.list()
    assert shm._core.channel is not None
    shm._core.channel.context.version = 1
    for _ in range(3):
        shm.put("a", LARGE).close()
        shm.put("b", b"small").close()
    counts = timings(shm, host)
    assert (counts["create"], counts["publish"], "put" in counts, "assign" in counts) == (6, 6, False, False)


# --- with a reserve


def test_reserve_is_made_ahead_and_filled(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path, reserve=4 * MIB) as shm:
        for number in range(40):
            shm.put("a", LARGE[number:]).close()
        counts = timings(shm, host)
        assert (counts["create"], counts["assign"], counts["reserve"]) == (1, 39, 1)
        rooms = ahead(shm)._rooms
        assert 4 * MIB // 2 <= sum(rooms.values()) <= 4 * MIB
        wait_until(lambda: all(os.fstat(s.fileno()).st_blocks * 512 == size for s, size in rooms.items()))
        assert bytes(shm.get("a")) == LARGE[39:]


def test_reserve_stays_while_it_is_idle(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path, reserve=MIB) as shm:
        shm.put("a", LARGE).close()
        regions = host.call(host.host.registry.tallies.states)["spare"]
        later = time.time_ns() + 10**12
        assert host.call(lambda: [s.take_all(later) for s in host.host._hub.spares]) == [[]]
        assert host.call(host.host.registry.tallies.states)["spare"] == regions


def test_thread_of_a_reserve_ends_with_its_client(host: WatchedHost) -> None:
    with shmclient.connect(host.socket_path, reserve=MIB) as shm:
        shm.put("a", LARGE).close()
        wait_until(lambda: read_tasks("self", "comm").count("shm filler\n") == 1)  # so it calls itself
    wait_until(lambda: "shm filler\n" not in read_tasks("self", "comm"))


def test_reserve_is_what_the_host_allows(tmp_path: Path) -> None:
    with (
        watched_host(str(tmp_path / "h.sock"), reserve=3 * MIB) as host,
        shmclient.connect(host.socket_path, reserve=2 * MIB) as first,
        shmclient.connect(host.socket_path, reserve=2 * MIB) as second,
        shmclient.connect(host.socket_path, reserve=2 * MIB) as third,
    ):
        assert [ahead(shm).reserve for shm in (first, second, third)] == [2 * MIB, MIB, 0]
        for _ in range(3):
            third.put("a", LARGE).close()


@pytest.mark.parametrize("size", [-1, 2**63, 1.5, True, "1M"])
def test_reserve_is_a_number_of_bytes(size: Any, host: WatchedHost) -> None:
    with pytest.raises(shmclient.InvalidArgument, match="a reserve is"):
        shmclient.connect(host.socket_path, reserve=size)


async def _put_async(path: str) -> None:
    async with await shmclient.aio.connect(path, reserve=4 * MIB) as shm:
        for number in range(20):
            async with await shm.put("a", LARGE[number:]):
                pass
        assert bytes(await shm.get("a")) == LARGE[19:]


def test_async_client_has_a_reserve_too(host: WatchedHost, shm: shmclient.Client) -> None:
    import anyio

    anyio.run(_put_async, host.socket_path)
    counts = timings(shm, host)
    assert (counts["create"], counts["assign"]) == (1, 19)


def test_small_values_use_no_spare(host: WatchedHost, shm: shmclient.Client) -> None:
    for _ in range(4):
        shm.put("a", bytes(putting.SENT_MAX // 2)).close()
    assert set(timings(shm, host)) & {"create", "publish", "assign"} == set()
