"""Clients of a host that was killed: what they hold is back at the next one, whatever they are doing."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import shmclient
import shmclient.aio
from support import Machine, RawPeer, count_descriptors, in_child, wait_until


@pytest.fixture
def other(machine: Machine) -> Iterator[shmclient.Client]:
    """A client that holds nothing, to see what the host has."""
    with shmclient.connect(machine.path, wait=60) as client:
        yield client


def leases(client: shmclient.Client) -> dict[str, int]:
    return {info.name: info.leases for info in client.list()}


def value(shm: shmclient.Client) -> Any:
    shm.put("x", b"1" * 5000).close()
    return shm.get("x")


def view_of_a_closed_handle(shm: shmclient.Client) -> Any:
    shm.put("x", b"1" * 5000).close()
    with shm.open("x") as region:
        return region.data


def opened(shm: shmclient.Client) -> Any:
    shm.put("x", b"1" * 5000).close()
    return shm.open("x")


def opened_with_a_descriptor(shm: shmclient.Client) -> Any:
    region: Any = opened(shm)
    os.fstat(region.fileno())
    return region


def put(shm: shmclient.Client) -> Any:
    return shm.put("x", b"1" * 5000)


def put_and_looked_at(shm: shmclient.Client) -> Any:
    region = shm.put("x", b"1" * 5000)
    assert len(region.data) == 5000
    return region


def put_with_a_descriptor(shm: shmclient.Client) -> Any:
    region = shm.put("x", b"1" * 5000)
    os.fstat(region.fileno())
    return region


def large(shm: shmclient.Client) -> Any:
    return shm.put("x", bytes(3_000_000))


def one_of_many(shm: shmclient.Client) -> Any:
    shm.put("x", b"1" * 5000).close()
    return shm.get_many(["x"])


def built(shm: shmclient.Client) -> Any:
    with shm.create("x", 5000) as builder:
        builder.data[:4] = b"1111"
    return builder.region


def built_by_a_writer(shm: shmclient.Client) -> Any:
    with shm.create("x", 5000, seal="writer") as builder:
        builder.data[:4] = b"1111"
    return builder


def file_of_shm(shm: shmclient.Client) -> Any:
    with shm.create("x", 5000, backend="shm") as builder:
        builder.data[:4] = b"1111"
    return builder.region


HELD = [value, view_of_a_closed_handle, opened, opened_with_a_descriptor, put, put_and_looked_at]
HELD += [put_with_a_descriptor, large, one_of_many, built, built_by_a_writer, file_of_shm]


@pytest.mark.parametrize("hold", HELD)
def test_name_of_what_a_client_holds_is_back_by_itself(
    hold: Callable[[shmclient.Client], Any], machine: Machine, other: shmclient.Client
) -> None:
    with shmclient.connect(machine.path) as shm:
        held = hold(shm)
        before = other.stat("x")
        for _ in range(2):
            machine.restart()
            wait_until(lambda: leases(other) == {"x": before.leases})
            assert other.stat("x") == before
            assert len(other.open("x").data) == before.size  # by others, too
            assert shm.exists("x")  # the client connects again by itself
            wait_until(lambda: other.stat("x") == before)
        del held
        wait_until(lambda: leases(other) == {"x": 0})


def test_path_of_the_socket_need_not_be_utf_8(tmp_path: Path) -> None:
    machine = Machine(tmp_path / os.fsdecode(b"h\xff.sock"))
    machine.start()
    try:
        with shmclient.connect(machine.path) as shm, shmclient.connect(machine.path) as other:
            held = shm.put("x", b"1" * 5000)
            machine.restart()
            assert bytes(other.get("x", wait=30)) == bytes(held.data)  # `shm` has asked for nothing
    finally:
        machine.kill()


def test_held_region_is_the_same_one_for_its_holder(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("x", np.arange(1000)).close()
        region, array = shm.open("x"), shm.get("x")
        address, number = region.address, region.number
        machine.restart()
        assert region.is_current()
        with shm.open("x") as again:
            assert (again.address, again.number, again.generation) == (address, number, region.generation)
        assert shm.get("x").sum() == array.sum() == 499500
        shm.put("x", np.arange(10)).close()
        assert not region.is_current()
        assert len(shm.get("x")) == 10
        assert region.value().sum() == 499500


def test_mode_owner_and_time_are_back(machine: Machine, other: shmclient.Client) -> None:
    with shmclient.connect(machine.path) as shm:
        held = shm.put("x", b"1", mode=0o640)
        shm.chmod("x", 0o604)
        before = shm.stat("x")
        machine.restart()
        wait_until(lambda: other.exists("x"))
        assert other.stat("x") == before
        held.close()
        wait_until(lambda: other.stat("x") == dataclasses.replace(before, leases=0))


def test_unlinked_region_stays_unlinked_and_its_holder_keeps_it(
    machine: Machine, other: shmclient.Client
) -> None:
    with shmclient.connect(machine.path) as shm:
        held = shm.put("x", b"1")
        shm.unlink("x")
        second = shm.put("y", b"2")
        machine.restart()
        wait_until(lambda: leases(other) == {"y": 1})
        assert not shm.exists("x")
        assert bytes(held.data) == b"1"
        second.close()


def test_newest_generation_has_the_name_and_both_live(machine: Machine, other: shmclient.Client) -> None:
    with shmclient.connect(machine.path) as first, shmclient.connect(machine.path) as second:
        first.put("x", b"old").close()
        old = first.get("x")
        second.put("x", b"new").close()
        new = second.get("x")
        for _ in range(2):
            machine.restart()
            wait_until(lambda: leases(other) == {"x": 1})
            wait_until(
                lambda: other._core.channel is not None and states(machine) == ["current", "superseded"]
            )
            assert bytes(other.get("x")) == b"new"
        assert (bytes(old), bytes(new)) == (b"old", b"new")
        del old
        wait_until(lambda: first.exists("x") and states(machine) == ["current"])


def states(machine: Machine) -> list[str]:
    """Return the states of all regions."""
    from shmprotocol.wire import messages as m

    with RawPeer(machine.path) as peer:
        reply, _ = peer.ask(m.Inspect(2, "", 0))
    assert isinstance(reply, m.Inspected)
    return sorted(item.info.state for item in reply.regions)


def test_wait_for_a_name_ends_when_it_is_back(machine: Machine, other: shmclient.Client) -> None:
    with shmclient.connect(machine.path) as shm, ThreadPoolExecutor() as pool:
        held = shm.put("x", b"1")
        machine.kill()
        got = pool.submit(other.get, "x", wait=60)
        machine.start()
        assert bytes(got.result(60)) == b"1"
        held.close()


async def test_names_of_an_async_client_are_back(
    machine: Machine, other: shmclient.Client, anyio_backend: str
) -> None:
    async with await shmclient.aio.connect(machine.path) as shm:
        with await shm.put("x", b"1" * 5000) as region:
            view = await shm.get("x")
            (await shm.put("y", b"2")).close()
            second = await shm.open("y")
            before = leases(other)
            for _ in range(2):
                machine.restart()  # the loop stands still meanwhile
                wait_until(lambda: leases(other) == before)
                assert await region.is_current()
                assert await second.is_current()
                wait_until(lambda: leases(other) == before)
            assert bytes(view) == b"1" * 5000
            del view
            second.close()
        await shm.list()
        wait_until(lambda: leases(other) == {"x": 0, "y": 0})


def run(machine: Machine, program: str) -> subprocess.Popen[str]:
    """Start a program with a client of a host; return when it has said that it is ready."""
    head = "import sys, time\nimport shmclient\nshm = shmclient.connect(sys.argv[1])\n"
    command = [sys.executable, "-c", head + textwrap.dedent(program), machine.path]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


IDLE = """
    value = shm.put("x", b"1")
    print("ready", flush=True)
    sys.stdin.read()
"""
COMPUTING = """
    value = shm.put("x", b"1")
    print("ready", flush=True)
    pow(3, 10**9)  # in C, with the lock of the interpreter
"""
GREENLETS = """
    import gevent.monkey
    gevent.monkey.patch_all()
    shm = shmclient.connect(sys.argv[1])
    value = shm.put("x", b"1")
    print("ready", flush=True)
    time.sleep(1000)
"""
CLOSED = """
    shm.put("x", b"1").close()
    value = shm.get("x")
    shm.close()
    print("ready", flush=True)
    sys.stdin.read()
"""
FORGOTTEN = """
    shm.put("x", b"1").close()
    value = shm.get("x")
    del shm
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("program", [IDLE, COMPUTING, GREENLETS, CLOSED, FORGOTTEN])
def test_names_are_back_whatever_the_holder_is_doing(
    program: str, machine: Machine, other: shmclient.Client
) -> None:
    with run(machine, program) as child:
        try:
            for _ in range(3):
                machine.restart()
                wait_until(lambda: leases(other) == {"x": 1})
        finally:
            child.kill()
    wait_until(lambda: leases(other) == {"x": 0})


def test_stopped_holder_hands_back_when_it_goes_on(machine: Machine, other: shmclient.Client) -> None:
    with run(machine, IDLE) as child:
        try:
            child.send_signal(signal.SIGSTOP)
            machine.restart()
            assert leases(other) == {}
            child.send_signal(signal.SIGCONT)
            wait_until(lambda: leases(other) == {"x": 1})
        finally:
            child.kill()


def test_forked_child_hands_nothing_back_and_its_parent_does(
    machine: Machine, other: shmclient.Client
) -> None:
    with shmclient.connect(machine.path) as shm:
        held = shm.put("x", b"1")
        go_on, is_told = os.pipe()

        def child() -> None:
            os.read(go_on, 1)
            assert bytes(held.data) == b"1"

        pid = os.fork()
        if not pid:
            try:
                child()
            finally:
                os._exit(0)
        machine.restart()
        wait_until(lambda: leases(other) == {"x": 1})
        os.write(is_told, b".")
        os.waitpid(pid, 0)
        assert leases(other) == {"x": 1}
        assert in_child(lambda: None) == 0  # the thread is there again after each fork
        machine.restart()
        wait_until(lambda: leases(other) == {"x": 1})
        os.close(go_on)
        os.close(is_told)
        held.close()


def test_released_before_the_client_connects_is_released_at_the_host(
    machine: Machine, other: shmclient.Client
) -> None:
    """The keeper has the leases until then."""
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1").close()
        first, second = shm.get("x"), shm.open("x")
        y = shm.put("y", b"1")
        machine.restart()
        wait_until(lambda: leases(other) == {"x": 2, "y": 1})
        del first
        wait_until(lambda: leases(other) == {"x": 1, "y": 1})
        second.close()
        wait_until(lambda: leases(other) == {"x": 0, "y": 1})
        y.close()
        wait_until(lambda: leases(other) == {"x": 0, "y": 0})


def test_nothing_is_left_open(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        shm.put("x", b"1").close()
    before = count_descriptors()
    for _ in range(3):
        with shmclient.connect(machine.path) as shm:
            shm.put("x", b"1").close()
            view, region = shm.get("x"), shm.open("x")
            machine.restart()
            assert shm.exists("x")
            del view
            region.close()
            shm.list()
    wait_until(lambda: count_descriptors() == before, shown=count_descriptors)


def test_many_regions_are_back_and_no_more_than_a_part_of_the_descriptors_is_kept(machine: Machine) -> None:
    program = """
        import resource
        for number in range(400):
            shm.put(f"n/{number:03}", b"1").close()
        values = [shm.get(f"n/{number:03}") for number in range(400)]
        print("ready", flush=True)
        sys.stdin.read()
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        child = run(machine, program)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with child, shmclient.connect(machine.path, wait=60) as other:
        try:
            machine.restart()
            wait_until(lambda: sum(leases(other).values()) == 256)
        finally:
            child.kill()


def test_watch_neither_loses_nor_repeats(machine: Machine) -> None:
    with (
        shmclient.connect(machine.path) as shm,
        shmclient.connect(machine.path) as third,
        shm.watch(wait=60) as changes,
    ):
        seen = iter(changes)
        first, second = third.put("a", b"1"), third.put("b", b"1")
        lost = RawPeer(machine.path)
        assert [(change.kind, change.info.name) for change in (next(seen), next(seen))] == [
            ("published", "a"),
            ("published", "b"),
        ]
        shm.put("gone", b"1").close()  # which nobody holds
        assert next(seen).info.name == "gone"
        machine.restart()
        lost.close()
        wait_until(lambda: third.exists("a"))
        third.put("b", b"2").close()
        change = next(seen)
        assert (change.kind, change.info.name) == ("published", "b")
        assert change.info.generation == second.generation + 1
        assert (change := next(seen)).kind == "unlinked"
        assert change.info.name == "gone"
        third.put("c", b"1").close()
        assert next(seen).info.name == "c"
        first.close()


def test_follow_gives_no_value_twice_and_loses_none(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm, shmclient.connect(machine.path) as writer:
        writer.put("x", b"0").close()
        values = iter(shm.follow("x", wait=60))
        assert bytes(next(values)) == b"0"
        with ThreadPoolExecutor() as pool:
            for number in range(1, 6):
                held = writer.get("x")
                following = pool.submit(lambda: bytes(next(values)))
                machine.restart()
                wait_until(lambda: writer.exists("x"))
                writer.put("x", b"%d" % number).close()
                assert following.result(60) == b"%d" % number
                del held


async def test_async_follow_gives_no_value_twice(machine: Machine, anyio_backend: str) -> None:
    async with await shmclient.aio.connect(machine.path) as shm:
        (await shm.put("x", b"0")).close()
        seen: list[bytes] = []
        is_seen = [anyio.Event() for _ in range(4)]
        with shmclient.connect(machine.path) as writer:

            async def follow() -> None:
                async for item in shm.follow("x", wait=60):
                    seen.append(bytes(item))
                    is_seen[len(seen) - 1].set()
                    if len(seen) == 4:
                        return

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow)
                for number in range(1, 4):
                    await is_seen[number - 1].wait()
                    held = writer.get("x")
                    machine.restart()
                    wait_until(lambda: writer.exists("x"))
                    writer.put("x", b"%d" % number).close()
                    del held
        assert seen == [b"0", b"1", b"2", b"3"]


def test_host_that_ends_cleanly_leaves_nothing_to_come_back(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        held = shm.put("x", b"1")
        machine.signal(signal.SIGTERM)
        assert machine.child is not None
        machine.child.communicate()
        machine.child = None
        assert not Path(f"{machine.path}.state").exists()
        machine.start()
        assert shm.list() == []
        assert bytes(held.data) == b"1"
        shm.put("x", b"2").close()
        held.close()


def test_host_whose_state_is_lost_takes_nothing_back(machine: Machine) -> None:
    with shmclient.connect(machine.path) as shm:
        held = shm.put("x", b"1")
        machine.kill()
        Path(f"{machine.path}.state").unlink()
        machine.start()
        assert shm.list() == []
        shm.put("x", b"2").close()
        assert bytes(held.data) == b"1"
        held.close()


def work(shm: shmclient.Client, seed: int, is_over: threading.Event, last: dict[str, int]) -> None:
    """Put growing numbers and look at them: none is ever smaller than one that was there before."""
    choose, name = random.Random(seed), f"n{seed}"
    held: list[Any] = []
    number = 0
    while not is_over.is_set():
        try:
            region = shm.put(name, b"%08d" % number + bytes(choose.choice([0, 5000, 200_000])))
            last[name] = number
            held.append(region)
            number += 1
            assert int(bytes(shm.get(name)[:8])) in (number - 1, number)
            del held[: max(0, len(held) - choose.randrange(1, 4))]
        except (shmclient.HostGone, shmclient.RegionNotFound, shmclient.RegionBusy):
            number += 1  # it may be there or not


def test_hosts_killed_at_random_lose_nothing_that_is_held(machine: Machine, other: shmclient.Client) -> None:
    is_over = threading.Event()
    last: dict[str, int] = {}
    clients = [shmclient.connect(machine.path) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        working = [pool.submit(work, shm, seed, is_over, last) for seed, shm in enumerate(clients)]
        wait_until(lambda: len(last) == 3)
        choose = random.Random(4)
        for _ in range(8):
            is_over.wait(choose.random() / 5)
            machine.restart()
            expected = dict(last)
            for name, number in expected.items():
                there = other.get(name, wait=60)
                assert int(bytes(there[:8])) >= number
        is_over.set()
        for future in working:
            future.result(60)
    for shm in clients:
        shm.close()
