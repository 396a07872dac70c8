"""A host that is killed anywhere leaves what was being changed whole, as it was or as it was to be.

It dies at each system call of what its clients ask for, and behind each store to its state file; its
successor too, while it starts. `make restarts` tries each place and prints how many there were, how many
requests failed, and how long it took until names were back.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import restart_operations
import restarting
from nursery import Nursery, nursery
from restarting import Killer, Scene, kill, kill_starting
from seizing import can_step
from shmprotocol.wire.query import Query
from stores import Place, Script, Table, at_call, at_store, behind_call, noting_stores
from support import Machine

FEW, MANY = 2, 150  # places in an operation
STORED = ("put_small", "put_small_without_holding", "unlink", "chmod", "put_large")
SENDS = frozenset({46, 307})  # sendmsg(2) and sendmmsg(2), by their numbers of x86-64
REPLIES = 2  # with descriptors, at least, in an operation
COUNTS = (1, 100, 1000)  # of names
ROUNDS = 20
needs_steps = pytest.mark.skipif(not can_step, reason="the registers are those of x86-64")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(str(tmp_path_factory.mktemp("restarts") / "host.sock")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def scene(hosts: Nursery) -> Iterator[Scene]:
    with restarting.scene_of(hosts) as scene:
        yield scene
        total, back_s = sum(scene.kills.values()), sorted(scene.back_s)
        print(f"\n{total} kills where it was to be: {dict(scene.kills)}")
        print(f"{scene.requests} requests, {scene.failures} failed, each under way at a kill")
        print(f"a name of a bystander was back after {figures(back_s)} in {len(back_s)} restarts")


def figures(times_s: list[float]) -> str:
    """Return the percentiles of times."""
    times_ms = [1e3 * seconds for seconds in sorted(times_s)]
    p50, p99 = times_ms[len(times_ms) // 2], times_ms[len(times_ms) * 99 // 100]
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {times_ms[-1]:.1f} ms"


Run = Callable[[Script], Killer]


def try_calls(run: Run, limit: int) -> None:
    """Kill a host at so many of the system calls of a run, spread over all of them."""
    count = run(at_call(0)).calls
    stride = max(1, count // limit)
    for point in range(1 + random.randrange(stride), count + 1, stride):
        run(at_call(point))


def try_stores(path: str, run: Run, limit: int | None = None) -> int:
    """Kill a host behind each store to its table in a run; return how many there were."""
    places: list[Place] = []
    with contextlib.closing(Table(path)) as table:
        run(noting_stores(table, places))
    assert places, "the operation notes nothing, or not where this looks"
    count = 0
    for point in places if limit is None else random.sample(places, min(limit, len(places))):
        for number in itertools.count(1) if limit is None else (random.randrange(1, 9),):
            with contextlib.closing(Table(path)) as table:
                if not run(at_store(table, point, number)).was_there:
                    break
            count += 1
    return count


def killing(scene: Scene, name: str, *, main_only: bool = False) -> Run:
    return functools.partial(kill, scene, restart_operations.ALL[name], main_only=main_only)


@pytest.mark.parametrize("name", restart_operations.ALL)
def test_host_that_is_killed_leaves_old_or_new(name: str, scene: Scene) -> None:
    try_calls(killing(scene, name), FEW)


@pytest.mark.torture
@pytest.mark.parametrize("name", restart_operations.ALL)
def test_host_that_is_killed_at_each_call_leaves_old_or_new(name: str, scene: Scene) -> None:
    try_calls(killing(scene, name), MANY)


@needs_steps
@pytest.mark.parametrize("name", ["put_small", "chmod"])
def test_host_that_is_killed_between_stores_leaves_old_or_new(name: str, scene: Scene) -> None:
    try_stores(f"{scene.hosts.path}.state", killing(scene, name, main_only=True), FEW)


@needs_steps
@pytest.mark.torture
@pytest.mark.parametrize("name", STORED)
def test_host_that_is_killed_at_each_store_leaves_old_or_new(name: str, scene: Scene) -> None:
    count = try_stores(f"{scene.hosts.path}.state", killing(scene, name, main_only=True))
    print(f"{name}: {count} stores")


@needs_steps
@pytest.mark.parametrize("name", ["replace_what_is_held", "replace_what_is_held_by_spare"])
def test_host_that_is_killed_behind_a_reply_has_replaced_the_value(name: str, scene: Scene) -> None:
    """Nothing but the reply itself says so then, and the client has let go of the new value."""
    run = killing(scene, name, main_only=True)
    count = next(number for number in itertools.count(1) if not run(behind_call(SENDS, number)).was_there)
    assert count > REPLIES


def test_host_that_is_killed_as_it_starts_leaves_all_to_the_next(scene: Scene) -> None:
    try_calls(functools.partial(kill_starting, scene), FEW)


@pytest.mark.torture
def test_host_that_is_killed_at_each_call_of_its_start_leaves_all_to_the_next(scene: Scene) -> None:
    try_calls(functools.partial(kill_starting, scene), 1000)


# --- until names are back

HOLDER = """
import sys, shmclient
shm = shmclient.connect(sys.argv[1])
count = int(sys.argv[2])
for number in range(count):
    shm.put(f"n/{number}", b"1").close()
values = [shm.get(f"n/{number}") for number in range(count)]
print("ready", flush=True)
if sys.argv[3] == "busy":
    while True:
        sum(range(1000))
sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path: str, count: int, how: str) -> Iterator[None]:
    """A process that holds so many names, and waits, or computes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a quarter of that may be kept
    try:
        command = [sys.executable, "-c", HOLDER, path, str(count), how]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            child.kill()


def restart(machine: Machine, count: int) -> float:
    """Kill a host and start the next one; return how long after that listened so many names were there."""
    machine.restart()
    began_s = time.monotonic()
    with Query(machine.path) as query:
        while sum(total.regions for total in query.measure().totals) < count:
            assert time.monotonic() < began_s + 60
            time.sleep(0.0005)
    return time.monotonic() - began_s


@pytest.mark.torture
@pytest.mark.parametrize("how", ["idle", "busy"])
@pytest.mark.parametrize("count", COUNTS)
def test_names_are_back(count: int, how: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "h.sock")
    machine.start()
    with holder(machine.path, count, how):
        times_s = [restart(machine, count) for _ in range(ROUNDS)]
    machine.kill()
    print(f"\n{count} names of a client that is {how}: back {figures(times_s)} after the next host listened")
