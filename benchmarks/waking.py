"""How long a sleeper takes to have a new value of an arena, against a bare futex and a bare eventfd.

Run as a module it is the sleeper: for each line of its input it says that it is ready, collects the ages of
so many values, and prints them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import shmclient
from benchmarks.floors import row
from benchmarks.measure import in_turn
from benchmarks.peers.steps import Ages, clock, stamped
from benchmarks.processes import ROOT, baseline, compile_baseline
from benchmarks.results import Row

KIB = 1 << 10
ROUNDS, COUNT = 5, 200
PAUSE_S = 0.001  # so that the reader sleeps
WAIT_S = 20.0
REST = os.urandom(KIB - 16)
START = 64  # of the value in the memory of the floors, after the word


@dataclass(frozen=True)
class _Site:
    """Where a sleeper runs, and the memory and the eventfd of the floors."""

    folder: str
    path: str
    cpu: int
    memory: int
    event: int
    count: int


def rows(
    folder: str, path: str, shm: shmclient.Client, cpu: int, where: str, count: int = COUNT
) -> Iterator[Row]:
    """Measure with readers on a CPU: a thread that sleeps, and an event loop."""
    compile_baseline(folder)
    site = _Site(folder, path, cpu, os.memfd_create("bench"), os.eventfd(0), count)
    try:
        os.ftruncate(site.memory, mmap.PAGESIZE)
        for ours, floor, waiter in (("thread", "futex", "a thread"), ("loop", "eventfd", "an event loop")):
            with ExitStack() as stack:
                raises = stack.enter_context(_raises(shm, site))
                samples = [stack.enter_context(_sleeper(kind, site, raises[kind])) for kind in (ours, floor)]
                figures = in_turn(samples[0], samples[1], ROUNDS)
            title = f"arena: put of 1 KiB until {waiter} has it, {where}"
            yield row(f"arena/wake/{ours}/{where}", title, *figures, 1.2, None)
    finally:
        os.close(site.memory)
        os.close(site.event)


@contextlib.contextmanager
def _raises(shm: shmclient.Client, site: _Site) -> Iterator[dict[str, Callable[[], object]]]:
    """Give what publishes a value, by the kind of who sleeps."""
    bare = baseline(site.folder)
    with (
        shm.arena("wake", 1 << 20, names=16, keep=False) as arena,
        mmap.mmap(site.memory, mmap.PAGESIZE) as plain,
        bare.ffi.from_buffer("unsigned int[]", plain) as word,
    ):

        def put() -> None:
            arena["x"] = stamped(clock(), False, REST)

        def raise_word() -> None:
            plain[START : START + KIB] = stamped(clock(), False, REST)
            bare.lib.futex_raise(word)

        def raise_event() -> None:
            plain[START : START + KIB] = stamped(clock(), False, REST)
            os.eventfd_write(site.event, 1)

        put()
        yield {"thread": put, "loop": put, "futex": raise_word, "eventfd": raise_event}


@contextlib.contextmanager
def _sleeper(
    kind: str, site: _Site, raise_value: Callable[[], object]
) -> Iterator[Callable[[], list[float]]]:
    """Run a sleeper until the block ends; gives a function that returns the ages of a round."""
    arguments = [kind, site.folder, site.path, *map(str, (site.memory, site.event, site.count))]
    child = subprocess.Popen(
        ["taskset", "-c", str(site.cpu), sys.executable, "-m", "benchmarks.waking", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        pass_fds=(site.memory, site.event),
        process_group=0,
        bufsize=0,
    )
    try:
        yield lambda: _round(child, raise_value)
    finally:
        assert child.stdin is not None
        child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def _round(child: subprocess.Popen[bytes], raise_value: Callable[[], object]) -> list[float]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"\n")
    deadline = time.monotonic() + WAIT_S
    if child.stdout.readline() != b"ready\n":
        raise RuntimeError("the sleeper has ended")
    while not select.select([child.stdout], [], [], PAUSE_S)[0]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the sleeper has not had its values within {WAIT_S:.0f} s")
        raise_value()
    ages: list[float] = json.loads(child.stdout.readline())
    return ages


# the sleeper


def _by_thread(path: str, ages: Ages) -> None:
    with shmclient.connect(path) as shm, contextlib.closing(shm.follow("wake/x")) as values:
        _ready()
        for value in values:
            if not ages.add(value):
                return


def _by_futex(folder: str, plain: mmap.mmap, ages: Ages) -> None:
    bare = baseline(folder)
    with bare.ffi.from_buffer("unsigned int[]", plain) as word:
        _ready()
        seen = word[0]
        while True:
            bare.lib.futex_wait(word, seen)
            seen = word[0]
            if not ages.add(plain[START : START + KIB]):
                return


async def _by_loop(path: str, ages: Ages) -> None:
    from shmclient import aio

    async with await aio.connect(path) as shm, await shm.follow("wake/x") as values:
        _ready()
        async for value in values:
            if not ages.add(value):
                return


async def _by_eventfd(plain: mmap.mmap, event: int, ages: Ages) -> None:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def take() -> None:
        os.eventfd_read(event)
        if not ages.add(plain[START : START + KIB]) and not done.done():
            done.set_result(None)

    loop.add_reader(event, take)
    _ready()
    await done
    loop.remove_reader(event)


def _ready() -> None:
    print("ready", flush=True)


def main(kind: str, folder: str, path: str, memory: int, event: int, count: int) -> None:
    """Sleep and collect, for each line of the input."""
    with mmap.mmap(memory, mmap.PAGESIZE) as plain:
        roads: dict[str, Callable[[Ages], Any]] = {
            "thread": lambda ages: _by_thread(path, ages),
            "futex": lambda ages: _by_futex(folder, plain, ages),
            "loop": lambda ages: asyncio.run(_by_loop(path, ages)),
            "eventfd": lambda ages: asyncio.run(_by_eventfd(plain, event, ages)),
        }
        while sys.stdin.readline():
            ages = Ages(count)
            roads[kind](ages)
            print(json.dumps(ages.us), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]))  # type: ignore[arg-type]
