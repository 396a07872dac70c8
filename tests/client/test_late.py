"""Leases that are given back a moment later reach the host all the same, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import shmclient
from support import Machine, client_with_two, in_child, mapped_addresses, read_tasks, wait_until

BURST = 200  # more than the buffer of a connection has room for


@pytest.fixture
def shm(machine: Machine) -> Iterator[shmclient.Client]:
    with client_with_two(machine.path) as shm:
        yield shm


@pytest.fixture
def other(machine: Machine, shm: shmclient.Client) -> Iterator[shmclient.Client]:
    """Give a client that sees the leases of the first: a request of that one would bring its releases."""
    with shmclient.connect(machine.path) as other:
        yield other


def leases(other: shmclient.Client) -> int:
    return sum(info.leases for info in other.list())


def burst(shm: shmclient.Client) -> None:
    for _ in range(BURST):
        shm.open("a").close()


def test_last_release_of_a_burst_needs_no_further_request(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    for _ in range(3):
        burst(shm)
        wait_until(lambda: leases(other) == 0)


def test_request_comes_after_the_releases_before_it(shm: shmclient.Client) -> None:
    for _ in range(20):
        burst(shm)
        assert shm.stat("a").leases == 0
        assert [info.leases for info in shm.list()] == [0, 0]


def test_more_releases_than_the_buffer_holds_all_arrive(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    names = [f"many/{number}" for number in range(BURST)]
    for name in names:
        shm.put(name, b"1").close()
    regions = shm.open_many(names)
    assert leases(other) == BURST
    regions.clear()
    wait_until(lambda: leases(other) == 0)


@contextlib.contextmanager
def full_socket(machine: Machine, shm: shmclient.Client) -> Iterator[None]:
    """Have the host stop, and more leases given back than the socket takes."""
    names = [f"many/{number}" for number in range(600)]
    for name in names:
        shm.put(name, b"1").close()
    regions = shm.open_many(names)
    with socket.socket(fileno=os.dup(shm.fileno())) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
    machine.signal(signal.SIGSTOP)
    try:
        regions.clear()
        yield
    finally:
        machine.signal(signal.SIGCONT)


def test_releases_that_a_full_socket_does_not_take_arrive_later(
    machine: Machine, shm: shmclient.Client, other: shmclient.Client
) -> None:
    with full_socket(machine, shm):
        assert mapped_addresses() == []
    assert shm.exists("a")
    wait_until(lambda: leases(other) == 0)


def sleeps() -> int:
    """Return how often the thread that sends late releases has gone to sleep."""
    (text,) = (text for text in read_tasks("self", "status") if text.startswith("Name:\tshm late\n"))
    return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_thread_seldom_looks_at_a_socket_that_stays_full(
    machine: Machine, shm: shmclient.Client, other: shmclient.Client
) -> None:
    with full_socket(machine, shm):
        before_s, count = time.monotonic(), sleeps()
        wait_until(lambda: time.monotonic() > before_s + 0.5)
        assert sleeps() - count < 50  # some 20; it was 700
    assert shm.exists("a")
    wait_until(lambda: leases(other) == 0)


def test_forks_in_a_burst_give_back_their_own_leases_alone(
    shm: shmclient.Client, other: shmclient.Client
) -> None:
    def child() -> None:
        burst(shm)
        assert shm.stat("b").leases == 1
        with shm.open("b") as again:
            assert bytes(again.data) == b"b" * 10

    with shm.open("b") as region:
        for _ in range(5):
            burst(shm)
            assert in_child(child) == 0
            burst(shm)
        assert bytes(region.data) == b"b" * 10
        wait_until(lambda: leases(other) == 1)
    wait_until(lambda: leases(other) == 0)


def test_threads_share_the_fast_road(shm: shmclient.Client, other: shmclient.Client) -> None:
    def work(number: int) -> None:
        mine, theirs = ("a", "b") if number % 2 else ("b", "a")
        for _ in range(BURST):
            with shm.open(mine) as region:
                assert bytes(region.data) == mine.encode() * 10
            for value, name in zip(shm.get_many([theirs, mine]), (theirs, mine), strict=True):
                assert bytes(value) == name.encode() * 10
            shm.open_many([mine, theirs])

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work, number) for number in range(6)]:
            future.result(60)
    wait_until(lambda: leases(other) == 0)
    assert mapped_addresses() == []


def test_client_that_is_closed_after_a_burst_has_no_leases(machine: Machine, other: shmclient.Client) -> None:
    with shmclient.connect(machine.path) as shm:
        burst(shm)
        region = shm.open("a")
        burst(shm)
    assert leases(other) == 1
    region.close()
    wait_until(lambda: leases(other) == 0)


def test_host_that_dies_in_a_burst_is_an_error_and_the_next_one_is_used(
    machine: Machine, shm: shmclient.Client
) -> None:
    burst(shm)
    region = shm.open("a")
    machine.kill()
    region.close()
    with pytest.raises(shmclient.HostGone):
        shm.open("a")
    machine.start()
    shm.put("a", b"new").close()
    burst(shm)
    assert bytes(shm.open("a").data) == b"new"


def test_thread_that_sends_ends_after_a_rest(shm: shmclient.Client) -> None:
    tasks = len(os.listdir("/proc/self/task"))
    burst(shm)
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= tasks)
    burst(shm)  # and begins again
    assert shm.stat("a").leases == 0
