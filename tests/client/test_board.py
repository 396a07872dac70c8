"""The board from the clients' side: what is current is seen without asking, whatever becomes of the host."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import shmclient
import shmclient.aio
import shmhost
from shmclient.posix import F_SEAL_FUTURE_WRITE
from shmprotocol.wire import descriptors
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection, pack
from support import Machine, RawPeer, WatchedHost, in_child, wait_until, watched_host


class Requests:
    """Counts the requests that a host has answered."""

    def __init__(self, host: WatchedHost) -> None:
        self._host = host
        self._before = self._count()

    def new(self) -> int:
        return self._count() - self._before

    def _count(self) -> int:
        meter = self._host.host._hub.meter
        return self._host.call(lambda: sum(latency.count for latency in meter.latencies.values()))


@pytest.fixture
def other(host: WatchedHost) -> shmclient.Client:
    return shmclient.connect(host.socket_path)


def test_get_of_what_is_mapped_asks_nobody(
    host: WatchedHost, shm: shmclient.Client, other: shmclient.Client
) -> None:
    shm.put("a", np.arange(12.0).reshape(3, 4)).close()
    shm.put("b", b"abc").close()
    shm.put("d", {"x": np.arange(3), "y": b"y"}).close()
    values = [shm.get(name) for name in "abd"]
    requests = Requests(host)
    for _ in range(3):
        array = shm.get("a")
        assert array is not values[0]
        assert array.shape == (3, 4)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        np.testing.assert_array_equal(array, values[0])
        assert bytes(shm.get("b")) == b"abc"
        assert bytes(shm.get("d")["y"]) == b"y"
    assert requests.new() == 0
    other.put("a", np.arange(2)).close()
    assert len(shm.get("a")) == 2
    assert requests.new() > 0


def test_the_shape_of_one_array_is_not_that_of_the_next(shm: shmclient.Client) -> None:
    shm.put("a", np.arange(12)).close()
    first, second = shm.get("a"), shm.get("a")
    with warnings.catch_warnings():  # NumPy 2.5 would rather have a new view made
        warnings.simplefilter("ignore")
        second.shape = (3, 4)
    third = shm.get("a")
    assert first.shape == third.shape == (12,)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array(7.5),
        np.zeros((0, 4)),
        np.zeros((2, 1, 3), ">f4"),
        np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
        np.array(["a", "bc"]),
        np.array([(1, 2)], "i4,i4").view(np.recarray),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_an_array_is_the_same_when_it_is_got_again(array: np.ndarray, shm: shmclient.Client) -> None:
    shm.put("a", array).close()
    first = shm.get("a")
    again = shm.get("a")
    assert type(again) is type(first)
    assert (again.dtype, again.shape, again.strides) == (first.dtype, first.shape, first.strides)
    assert again.__array_interface__ == first.__array_interface__
    np.testing.assert_array_equal(again, array)


def test_is_current_asks_nobody(host: WatchedHost, shm: shmclient.Client, other: shmclient.Client) -> None:
    with shm.put("x", b"1") as first, other.open("x") as second:
        requests = Requests(host)
        assert first.is_current()
        assert second.is_current()
        assert requests.new() == 0
        with other.put("x", b"2") as third:
            requests = Requests(host)
            assert not first.is_current()
            assert not second.is_current()
            assert third.is_current()
            assert requests.new() == 0
        other.unlink("x")
        assert not third.is_current()


def test_a_closed_handle_says_still_whether_its_region_is_current(shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    region.close()
    assert region.is_current()
    shm.put("x", b"2").close()
    assert not region.is_current()


def test_a_new_mode_that_allows_it_costs_one_request(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    value = shm.get("x")
    shm.chmod("x", 0o644)
    requests = Requests(host)
    assert bytes(shm.get("x")) == bytes(value)
    assert requests.new() == 1
    assert bytes(shm.get("x")) == b"1"
    assert requests.new() == 1


def test_everything_goes_on_while_the_host_is_stopped(machine: Machine) -> None:
    with shmclient.connect(machine.path, timeout=1) as shm:
        region = shm.put("x", np.arange(3))
        value = shm.get("x")
        assert machine.child is not None
        machine.child.send_signal(signal.SIGSTOP)
        try:
            for _ in range(100):
                np.testing.assert_array_equal(shm.get("x"), value)
                assert region.is_current()
            with pytest.raises(shmclient.HostTimeout):
                shm.get("y")
        finally:
            machine.child.send_signal(signal.SIGCONT)


def test_everything_goes_on_when_the_host_is_killed(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        region, old = shm.put("x", np.arange(3)), shm.put("old", b"1")
        shm.put("old", b"2").close()
        value = shm.get("x")
        machine.kill()
        for _ in range(100):
            np.testing.assert_array_equal(shm.get("x"), value)
            assert region.is_current()
        with pytest.raises(shmclient.HostGone):
            old.is_current()
        with pytest.raises(shmclient.HostGone):
            shm.get("y")
        machine.start()
        shm.put("other", b"1").close()  # finds the new host, which has another board
        np.testing.assert_array_equal(shm.get("x"), value)
        assert region.is_current()
        assert not old.is_current()


def test_a_client_that_only_looks_finds_the_next_host(machine: Machine) -> None:
    """It asks nobody as long as all is well; so the board itself must say that it is over."""
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"before").close()
        value = shm.get("x")
        machine.restart()
        with shmclient.connect(machine.path) as writer:
            writer.put("x", b"after").close()
        wait_until(lambda: bytes(shm.get("x")) == b"after")
        assert bytes(value) == b"before"


def test_is_current_in_a_forked_child(shm: shmclient.Client) -> None:
    region = shm.put("x", b"1")
    value = shm.get("x")

    def child() -> None:
        assert region.is_current()
        assert bytes(shm.get("x")) == bytes(value)  # by a connection of its own
        shm.put("x", b"2").close()
        assert not region.is_current()

    assert in_child(child) == 0
    assert not region.is_current()


def test_an_embedded_host_that_is_forked_does_not_die_with_the_child() -> None:
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        region = shm.put("x", b"1")
        assert in_child(gc.collect) == 0
        assert region.is_current()
        shm.put("x", b"2").close()
        assert not region.is_current()


def test_nobody_can_write_the_board(host: WatchedHost) -> None:
    with RawPeer(host.socket_path, greet=False) as peer:
        peer.send(pack(m.Hello(1, m.VERSION_MIN, m.VERSION, "raw")))
        connection = Connection("client")
        data, fds = descriptors.receive(peer.socket)
        connection.receive(data, fds)
        (welcome, owned), *_ = connection.messages()
        assert isinstance(welcome, m.Welcome)
        descriptor = owned[0]
        assert os.fstat(descriptor).st_size == welcome.board[1]
        assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & F_SEAL_FUTURE_WRITE
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, 0, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        with pytest.raises(PermissionError):
            mmap.mmap(again, 0)
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 4096)
        with pytest.raises(PermissionError):
            os.ftruncate(again, 0)
        os.close(again)
        os.close(descriptor)


def test_a_client_of_version_1_gets_no_descriptor_with_its_welcome(host: WatchedHost) -> None:
    with RawPeer(host.socket_path, greet=False) as peer:
        peer.send(pack(m.Hello(1, 1, 1, "old")))
        data, fds = descriptors.receive(peer.socket)
        assert not fds
        connection = Connection("client")
        connection.receive(data)
        (welcome, _), *_ = connection.messages()
        assert welcome == m.Welcome(1, 1, welcome.host, welcome.windows, os.geteuid())  # type: ignore[attr-defined]


@pytest.mark.parametrize("names", [0, 2])
def test_names_without_a_line_are_asked_for(names: int, tmp_path: Path) -> None:
    path = str(tmp_path / "h.sock")
    with watched_host(path, board=names) as host, shmclient.connect(path) as shm:
        regions = [shm.put(f"n{number}", b"%d" % number) for number in range(4)]
        values = [shm.get(region.name) for region in regions]
        requests = Requests(host)
        for region, value in zip(regions, values, strict=True):
            assert region.is_current()
            assert bytes(shm.get(region.name)) == bytes(value)
        assert requests.new() == 2 * (4 - names)
        shm.put("n3", b"new").close()
        assert not regions[3].is_current()
        assert bytes(shm.get("n3")) == b"new"
        tally = host.call(lambda: host.host._hub.meter.refusals["board-full"])
        assert tally == (3 if names else 0)
        if names:  # a line is free again when its name is gone, and what was granted with it
            del values, value
            for region in regions:
                region.close()
            shm.unlink("n0")
            with shm.put("n4", b"4") as region:
                value = shm.get("n4")
                requests = Requests(host)
                assert region.is_current()
                assert bytes(shm.get("n4")) == bytes(value) == b"4"
                assert requests.new() == 0


@pytest.mark.anyio
async def test_async_client_looks_at_the_board(host: WatchedHost, anyio_backend: str) -> None:
    async with shmclient.aio.AsyncClient(host.socket_path) as shm:
        region = await shm.put("a", np.arange(3))
        value = await shm.get("a")
        requests = Requests(host)
        assert await region.is_current()
        np.testing.assert_array_equal(await shm.get("a"), value)
        assert requests.new() == 0
        (await shm.put("a", np.arange(4))).close()
        assert not await region.is_current()
        assert len(await shm.get("a")) == 4


def test_get_makes_no_system_call(tmp_path: Path) -> None:
    script = """
import os, sys, numpy, shmclient, shmhost
with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
    region = shm.put("x", numpy.arange(1000))
    value = shm.get("x"), shm.get("x")
    print(os.getpid(), region.is_current(), flush=True)
    os.getppid()
    for _ in range(1000):
        shm.get("x")
        region.is_current()
    os.getppid()
"""
    if subprocess.run(["which", "strace"], capture_output=True, check=False).returncode:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-o", str(trace), sys.executable, "-c", script]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    lines = trace.read_text().splitlines()
    marks = [index for index, line in enumerate(lines) if "getppid()" in line]
    main = lines[marks[0]].split()[0]
    between = [line for line in lines[marks[0] + 1 : marks[1]] if line.split()[0] == main]
    assert between == []


def boards() -> int:
    return sum("board:shmhost" in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_a_board_is_unmapped_with_the_last_who_looks_at_it(tmp_path: Path) -> None:
    with watched_host(str(tmp_path / "h.sock")) as running:
        gc.collect()
        before = boards()  # that of the host, in this process
        shm = shmclient.connect(running.socket_path)
        region, other = shm.put("x", b"1"), shm.open("x")
        value = shm.get("x")
        assert region.is_current()
        assert other.is_current()
        assert boards() > before
        with shm.follow("x") as news:
            assert bytes(next(news)) == bytes(value)
        shm.close()
        del region, other, news
        gc.collect()
        assert boards() > before  # the data about the value looks at it
        del value
        gc.collect()
        assert boards() == before


ELSEWHERE = """
import sys, shmclient
from shmclient import posix
path, address, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
flags = posix.MAP_PRIVATE | posix.MAP_ANONYMOUS | posix.MAP_FIXED_NOREPLACE
obstacle = posix.mmap(address, size, posix.PROT_READ, flags)
with shmclient.connect(path) as shm, shm.open("x") as region:
    assert region.is_current()
    board = shm._core.channel.outbox.board
    assert board is not None and not address <= board.owner < address + size
    assert region._is_granted() is True
"""


def test_a_board_whose_address_is_taken_is_mapped_elsewhere(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    assert host.host._board is not None
    numbers = [str(number) for number in host.host._board.range]
    subprocess.run([sys.executable, "-c", ELSEWHERE, host.socket_path, *numbers], check=True, timeout=60)
