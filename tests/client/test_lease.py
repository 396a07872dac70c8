"""A lease and its mapping live exactly as long as they are used, and leave nothing behind."""

from __future__ import annotations

import contextlib
import gc
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import shmclient
from shmclient._connection.outbox import Outbox
from shmclient._regions import region as region_module
from shmclient._regions.mapped import Lease
from shmprotocol.errors import OutOfMemory
from shmprotocol.kernel import address_space
from shmprotocol.wire import messages as m
from shmprotocol.wire.connection import Connection
from support import (
    WatchedHost,
    mapped_addresses,
    wait_until,
)


def test_mapping_and_lease_live_until_the_last_view_goes(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", np.arange(100)).close()
    region = shm.open("x")
    value = shm.get("x")
    part = value[10:20]
    region.close()
    del value
    shm.close()
    assert host.counts()["leases"] >= 1
    assert part.tolist() == list(range(10, 20))
    del part
    wait_until(lambda: host.counts()["leases"] == 0)
    wait_until(lambda: host.counts()["links"] == 0)
    assert mapped_addresses() == []


def test_lease_goes_without_another_call_when_a_cycle_is_collected(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"1").close()
    cycle: list[Any] = [shm.get("x")]
    cycle.append(cycle)
    del cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    wait_until(lambda: host.counts()["leases"] == 0)


def test_get_of_what_is_mapped_and_current_adds_nothing(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", np.arange(10)).close()
    first = shm.get("x")
    before = (host.counts(), mapped_addresses())
    again = [shm.get("x") for _ in range(10)]
    assert (host.counts(), mapped_addresses()) == before
    assert all(value.ctypes.data == first.ctypes.data for value in again)


def test_new_generation_has_a_new_address_and_the_old_one_stays(
    host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"old").close()
    old, region = shm.get("x"), shm.open("x")
    shm.put("x", b"new!").close()
    new = shm.open("x")
    assert (bytes(old), bytes(shm.get("x"))) == (b"old", b"new!")
    assert (region.generation, new.generation) == (1, 2)
    assert region.address != new.address
    assert (region.is_current(), new.is_current()) == (False, True)
    assert host.counts()["regions"] == 2
    del old
    region.close()
    wait_until(lambda: host.counts()["regions"] == 1)


def test_name_is_gone_at_once_when_it_is_unlinked(host: WatchedHost, shm: shmclient.Client) -> None:
    shm.put("x", b"1").close()
    value = shm.get("x")
    shm.unlink("x")
    with pytest.raises(FileNotFoundError):
        shm.get("x")
    assert bytes(value) == b"1"
    shm.put("x", b"2").close()
    assert bytes(shm.get("x")) == b"2"
    del value
    wait_until(lambda: host.counts()["regions"] == 1)


def test_clients_leave_nothing_behind(host: WatchedHost) -> None:
    before = host.counts()
    for _ in range(5):
        with shmclient.connect(host.socket_path) as shm:
            shm.put("x", {"a": np.arange(10), "b": b"1"}).close()
            value = shm.get("x")
            shm.open("x").close()
            del value
            shm.unlink("x")
    wait_until(lambda: host.counts() == before)


# --- counted shares, with the messages that reach the host


@pytest.fixture
def host_end() -> Iterator[tuple[Outbox, Callable[[], list[m.Message]]]]:
    """An outbox, and a function that reads what it sent."""
    ours, theirs = socket.socketpair()
    connection = Connection("host")
    theirs.setblocking(False)

    def read() -> list[m.Message]:
        with contextlib.suppress(BlockingIOError):
            connection.receive(theirs.recv(1 << 16))
        return [message for message, _ in connection.messages()]

    with ours, theirs:
        yield Outbox(ours, ours.close), read


def test_lease_is_released_with_its_last_share(
    host_end: tuple[Outbox, Callable[[], list[m.Message]]],
) -> None:
    outbox, read = host_end
    lease = Lease(outbox, 7).share("a").share("b")
    lease.release()
    lease.release()  # once more, as after Ctrl-C
    lease.release("a")
    assert read() == []
    lease.release("b")
    assert read() == [m.Release(0, (7,))]


def test_lease_is_released_once_by_many_threads(
    host_end: tuple[Outbox, Callable[[], list[m.Message]]],
) -> None:
    outbox, read = host_end
    count, start = 8, threading.Barrier(8)
    leases = [Lease(outbox, number) for number in range(50)]
    for lease in leases:
        for user in range(count):
            lease.share(user)
        lease.release()

    def work(user: int) -> None:
        start.wait(20)
        for lease in leases:
            lease.release(user)

    threads = [threading.Thread(target=work, args=(user,)) for user in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outbox.flush()
    assert sorted(message.leases for message in read() if isinstance(message, m.Release)) == [
        (number,) for number in range(50)
    ]


def test_last_lease_closes_the_socket_of_a_closed_client(
    host_end: tuple[Outbox, Callable[[], list[m.Message]]],
) -> None:
    outbox, read = host_end
    first, second = Lease(outbox, 1), Lease(outbox, 2)
    outbox.close()
    first.release()
    assert (read(), outbox.is_broken) == ([m.Release(0, (1,))], False)
    second.release()
    assert (read(), outbox.is_broken) == ([], True)


def test_lease_stays_while_the_region_cannot_be_unmapped(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OutOfMemory("vm.max_map_count")

    shm.put("x", b"1").close()
    value = shm.get("x", wait=0)  # by the plain road, which calls this function
    with monkeypatch.context() as context:
        context.setattr(address_space, "unmap", fail)
        del value
    assert len(mapped_addresses()) == 1
    shm.list()  # the host has seen what was sent before
    assert host.counts()["leases"] == 1  # its address is not free
    assert bytes(shm.get("x")) == b"1"  # used again, and unmapped then
    wait_until(lambda: host.counts()["leases"] == 0)
    assert mapped_addresses() == []


@pytest.mark.parametrize("use", ["open", "get"])
def test_lease_stays_while_a_limit_forbids_to_unmap(
    use: str, host: WatchedHost, shm: shmclient.Client
) -> None:
    shm.put("x", b"1").close()
    values = [getattr(shm, use)("x")]
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, limits[1]))  # less than there is: ENOMEM for any mmap(2)
    try:
        values.clear()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert len(mapped_addresses()) == 1
    shm.list()
    assert host.counts()["leases"] == 1
    assert bytes(shm.get("x")) == b"1"
    wait_until(lambda: host.counts()["leases"] == 0)
    assert mapped_addresses() == []


@pytest.mark.parametrize("seal", ["writer", "full"])
def test_share_that_is_released_twice_leaves_the_others(
    seal: Any, host: WatchedHost, shm: shmclient.Client
) -> None:
    with shm.create("x", 100, seal=seal) as builder:
        creation = builder._creation
        data = builder.data
    region = builder.region
    assert region is not None
    creation._unmapped()
    creation._unmapped()  # as after Ctrl-C, where the gate hands an item on once more
    shm.list()
    assert host.counts()["leases"] == 1
    assert region.data[:1] == data[:1]
    region.close()


def test_threads_map_a_handle_once(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = shm.put("x", b"1", progress=print)  # by the plain road: not mapped yet
    attach, views, calls = region_module.attach, [], []
    other = threading.Thread(target=lambda: views.append(region.data))

    def overtaken(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            other.start()
            other.join(0.2)  # it must not pass
        return attach(*arguments, **options)

    monkeypatch.setattr(region_module, "attach", overtaken)
    views.append(region.data)
    other.join(20)
    assert [bytes(view) for view in views] == [b"1", b"1"]
    assert len(calls) == 1
    del views[0]
    shm.list()
    assert host.counts()["leases"] == 1


def test_handle_is_not_closed_while_another_thread_maps_it(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = shm.put("x", b"1", progress=print)  # by the plain road: not mapped yet
    attach = region_module.attach
    other = threading.Thread(target=region.close)

    def overtaken(*arguments: Any, **options: Any) -> Any:
        other.start()
        other.join(0.2)  # it must not pass: the descriptor is in use
        return attach(*arguments, **options)

    monkeypatch.setattr(region_module, "attach", overtaken)
    try:
        view = region.data
    except shmclient.RegionClosed:
        view = None
    other.join(20)
    shm.list()
    assert host.counts()["leases"] == (view is not None)
    assert len(mapped_addresses()) == (view is not None)


def test_region_is_mapped_again_when_ctrl_c_came_right_after_its_end(
    host: WatchedHost, shm: shmclient.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmap = address_space.unmap

    def interrupted(*arguments: Any) -> None:
        unmap(*arguments)
        raise KeyboardInterrupt

    shm.put("x", b"1").close()
    region = shm.open("x", wait=0)  # by the plain road: on the fast one nothing comes in between
    with monkeypatch.context() as context:
        context.setattr(address_space, "unmap", interrupted)
        with pytest.raises(KeyboardInterrupt):
            region.close()
    value = shm.get("x")
    assert len(mapped_addresses()) == 1  # reading it would be SIGSEGV
    assert bytes(value) == b"1"
    del value
    wait_until(lambda: host.counts()["leases"] == 0)
    assert mapped_addresses() == []
