"""Threads that put, get, watch, follow, build, close and fork at random, under hosts that are killed."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shmclient
from support import Machine, count_descriptors, count_threads, in_child, mapped_addresses, wait_until

THREADS, NAMES = 8, 4
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "fuzz"
DURATION_S = 20.0 if LONG else 4.0
KILL_S = 1.0  # between two kills of the host, at most

# What a host that is killed, and a name or a client that another thread takes away, may do to a call. The
# next host hands the addresses out again at which regions of the one before are mapped still.
EXPECTED = (
    shmclient.AddressConflict,
    shmclient.RegionBusy,
    shmclient.HostGone,
    shmclient.HostTimeout,
    shmclient.RegionNotFound,
    shmclient.RegionClosed,
    shmclient.WaitTimeout,
    shmclient.ClientClosed,
)
Call = Callable[[shmclient.Client, random.Random, dict[str, Any]], object]


def name(chance: random.Random) -> str:
    return f"n/{chance.randrange(NAMES)}"


def put(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    region = shm.put(name(chance), np.full(chance.choice((10, 100_000)), 7))
    shared["region"] = region  # the one before may be closed by its destructor here, or used by others
    if chance.random() < 0.5:
        region.close()


def get(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    value = shm.get(name(chance), wait=chance.choice((None, 0.01, 1.0)))
    assert value[0] == value[-1] == 7
    shared[f"value{chance.randrange(3)}"] = value


def use_region(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    region = shared.get("region")
    if region is not None:
        assert len(region.data) == region.size
        region.fileno()
        if chance.random() < 0.3:
            region.close()


def open_many(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    for region in shm.open_many([name(chance), name(chance)]):
        assert region.is_current() in (True, False)


def build(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    with (
        contextlib.suppress(ZeroDivisionError),
        shm.create(name(chance), 4096, seal=chance.choice(("full", "writer"))) as builder,
    ):
        builder.array(100, np.int64)[:] = 7
        if chance.random() < 0.3:
            raise ZeroDivisionError


def watch(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    with shm.watch("n/", wait=1) as changes:
        shared["changes"] = changes
        for _ in range(2):
            shm.put(name(chance), np.full(10, 7)).close()
            next(changes, None)


def close_watch(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    changes = shared.get("changes")
    if changes is not None:
        changes.close()


def follow(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    with shm.follow(name(chance), wait=0.1) as values:
        assert next(values)[0] == 7


def unlink(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    shm.unlink(name(chance))


def reconnect(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    other = shared.get("client")
    shared["client"] = shmclient.connect(shm.socket_path, wait=5)
    shared["client"].list()
    if other is not None and chance.random() < 0.5:
        other.close()


def fork(shm: shmclient.Client, chance: random.Random, shared: dict[str, Any]) -> None:
    def child() -> None:
        shared.clear()
        gc.collect()
        with contextlib.suppress(*EXPECTED):
            shm.get(name(chance))
        shm.close()

    if chance.random() < 0.2:
        assert in_child(child) == 0


CALLS: list[Call] = [
    put,
    get,
    use_region,
    open_many,
    build,
    watch,
    close_watch,
    follow,
    unlink,
    reconnect,
    fork,
]


def state() -> tuple[object, ...]:
    return count_descriptors(), mapped_addresses(), count_threads()


def storm(shm: shmclient.Client, machine: Machine, seed: int) -> list[str]:
    """Run the threads, and kill the host now and then; return the tracebacks of what was not expected."""
    shared: dict[str, Any] = {}
    failures: list[str] = []
    end = time.monotonic() + DURATION_S

    def work(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        while time.monotonic() < end and not failures:
            call = chance.choice(CALLS)
            try:
                call(shm, chance, shared)
            except EXPECTED:
                pass
            except BaseException:
                failures.append(f"{call.__name__}: {traceback.format_exc()}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    chance = random.Random(seed)
    pause = threading.Event()
    while time.monotonic() < end and not failures:
        pause.wait(chance.uniform(0.1, KILL_S))
        machine.restart()
    for thread in threads:
        thread.join(60)
        if thread.is_alive():
            failures.append("".join(traceback.format_stack(sys._current_frames()[thread.ident or 0])))
    return failures


@pytest.mark.timeout(150)
@pytest.mark.parametrize("seed", range(3) if LONG else range(1))
def test_storm_of_threads_forks_and_kills_leaves_nothing_behind(seed: int, tmp_path: Path) -> None:
    before, interval = state(), sys.getswitchinterval()
    machine = Machine(tmp_path / "h.sock")
    machine.start()
    sys.setswitchinterval(1e-4)
    try:
        with shmclient.connect(machine.path, wait=5) as shm:
            failures = storm(shm, machine, seed)
    finally:
        sys.setswitchinterval(interval)
        machine.kill()
    assert not failures, failures[0]
    del shm
    wait_until(lambda: gc.collect() >= 0 and state() == before, shown=lambda: (before, state()))
