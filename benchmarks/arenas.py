"""The rows of `make bench` for arenas: what one process writes, against plain copies in private memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import shmclient
from benchmarks import memory, waking
from benchmarks.floors import row
from benchmarks.measure import in_turn, paired, summary
from benchmarks.processes import host
from benchmarks.results import OURS, Row

KIB, MIB = 1 << 10, 1 << 20
ROUNDS = 10
OBJECTS = 100_000
BYTES_EACH = 1400  # of an object of 1 KiB, with its name and all that it costs the owner
READERS = 100
NEW = 500  # values in a batch: a get is as short as a clock's own time


def rows(folder: str, first: int, other: int, objects: int = OBJECTS) -> Iterator[Row]:
    """Measure every row; owner and readers run on the first CPU, sleepers also on the other one."""
    yield memory.total(folder, first)
    with ExitStack() as stack:
        path, _ = stack.enter_context(host(folder, first))
        shm = stack.enter_context(shmclient.connect(path))
        reader = stack.enter_context(shmclient.connect(path))
        yield from puts(shm)
        with arena_of(shm, "values", 64 * MIB) as arena:
            yield get_new(arena, reader)
            yield get_again(arena, reader)
        yield from many(shm, reader, objects)
        yield put_with_readers(path, shm)
        for cpu in dict.fromkeys((first, other)):
            where = "one CPU" if cpu == first else "two CPUs"
            yield from waking.rows(folder, path, shm, cpu, where)


@contextlib.contextmanager
def arena_of(
    shm: shmclient.Client, name: str, size: int, names: int = 1024, *, populate: bool = False
) -> Iterator[shmclient.Arena]:
    """Give an arena of this process, which goes at the end of the block."""
    with shm.arena(name, size, names=names, keep=False, populate=populate) as arena:
        yield arena


def puts(shm: shmclient.Client) -> Iterator[Row]:
    """Put a new value of a name, against NumPy's copy into an array that is there."""
    with arena_of(shm, "small", 64 * MIB) as arena:
        yield put(arena, KIB, "1 KiB", ROUNDS, 20, 500, None, 1.2)
        yield put(arena, MIB, "1 MiB", ROUNDS, 300, 1, 1.1, None)
    for size, rounds, samples in ((64 * MIB, 8, 6), (512 * MIB, 4, 3)):
        with arena_of(shm, "large", 3 * size + 64 * MIB) as arena:
            yield put(arena, size, f"{size // MIB} MiB", rounds, samples, 1, 1.0, None)


def put(
    arena: shmclient.Arena,
    size: int,
    text: str,
    rounds: int,
    samples: int,
    calls: int,
    ratio: float | None,
    aim: float | None,
) -> Row:
    """Replace a value in memory that was used before."""
    data = np.frombuffer(os.urandom(min(size, MIB)) * max(size // MIB, 1), "u1")
    target = np.zeros_like(data)
    figures = paired(
        lambda: arena.__setitem__("put", data), lambda: np.copyto(target, data), rounds, samples, calls
    )
    return row(f"arena/put/{size}", f"arena: put {text}", *figures, ratio, aim)


def get_new(arena: shmclient.Arena, reader: shmclient.Client) -> Row:
    """Get values that were put since the last get, as arrays; the floor is NumPy's own new view of one."""
    value = np.arange(KIB, dtype="u1")
    values = {f"new/{index}": value for index in range(NEW)}
    names = [f"values/{name}" for name in values]
    views = dict.fromkeys(names, value)

    def ours() -> list[float]:
        times = []
        for _ in range(20):
            arena.put_many(values)
            times.append(timed_each(names, reader.get))
        return times

    def floor() -> list[float]:
        return [timed_each(names, lambda name: views[name][:]) for _ in range(20)]

    return row("arena/get_new", "arena: get a new value", *in_turn(ours, floor, ROUNDS), None, 1.2)


def get_again(arena: shmclient.Arena, reader: shmclient.Client) -> Row:
    """Get a value that has not changed, as a new array; the floor is NumPy's own new view of it."""
    arena["again"] = np.arange(128.0)
    first = reader.get("values/again")
    figures = paired(lambda: reader.get("values/again"), lambda: first[:], ROUNDS, 20, calls=500)
    return row("arena/get_again", "arena: get again, as a new array", *figures, None, 0.3)


def many(shm: shmclient.Client, reader: shmclient.Client, count: int) -> Iterator[Row]:
    """Put many new names into a new arena, and get each once; the floor is a dict of this process.

    The aims are those of an arena whose memory is there: the kernel takes a us to make the pages of a value.
    """
    title = f"arena: {count:,} new names of 1 KiB"
    names = Names(shm, reader, count, populate=True)
    yield row(
        "arena/many/put", f"{title}, populated: put, each", *in_turn(names.put, names.copy, 3), None, 1.2
    )
    figures = summary([[took] for took in names.gets[1:]]), summary([[took] for took in names.views[1:]])
    yield row("arena/many/get", f"{title}, populated: get, each", *figures, None, 1.3)
    figures = in_turn(names.put_many, names.copy, 3)
    yield row("arena/many/put_many", f"{title}, populated: put_many, each", *figures, None, 0.5)
    sizes = {OURS: summary([[size] for size in names.bytes_each])}
    yield Row("arena/many/bytes", f"{title}, populated: bytes in all, each", "B", sizes, aim=BYTES_EACH)
    names = Names(shm, reader, count, populate=False)
    figures = in_turn(names.put, names.copy, 3)
    yield row("arena/many/put_fresh", f"{title}, fresh pages: put, each", *figures, None, None)
    figures = in_turn(names.put_many, names.copy, 3)
    yield row("arena/many/put_many_fresh", f"{title}, fresh pages: put_many, each", *figures, None, None)


class Names:
    """Rounds of many new names, each in a new arena; the figures are for each name, in microseconds."""

    def __init__(
        self, shm: shmclient.Client, reader: shmclient.Client, count: int, *, populate: bool
    ) -> None:
        value = np.arange(KIB, dtype="u1")
        self._shm, self._reader, self._count, self._populate = shm, reader, count, populate
        self._values = {f"obj/{index}": value for index in range(count)}
        self.gets: list[float] = []
        self.views: list[float] = []
        self.bytes_each: list[float] = []

    def _arena(self) -> contextlib.AbstractContextManager[shmclient.Arena]:
        # Values, entries, index, and slabs that are not full.
        size = self._count * (KIB + 256) + MIB
        return arena_of(self._shm, "many", size, self._count, populate=self._populate)

    def put(self) -> list[float]:
        before = resident()
        with self._arena() as arena:
            took = timed_items(self._values, arena.__setitem__)
            self.bytes_each.append((resident() - before) / self._count)
            names = [f"many/{name}" for name in self._values]
            self.gets.append(timed_each(names, self._reader.get))
        return [took]

    def put_many(self) -> list[float]:
        with self._arena() as arena:
            began = time.perf_counter_ns()
            arena.put_many(self._values)
            return [(time.perf_counter_ns() - began) / 1000 / self._count]

    def copy(self) -> list[float]:
        copies: dict[str, Any] = {}
        took = timed_items(self._values, lambda name, value: copies.__setitem__(name, value.copy()))
        self.views.append(timed_each(list(self._values), lambda name: copies[name][:]))
        return [took]


def put_with_readers(path: str, shm: shmclient.Client) -> Row:
    """Put while a hundred readers hold a value each; the floor is the same with one reader."""
    data = np.arange(KIB, dtype="u1")
    with (
        ExitStack() as stack,
        arena_of(shm, "hundred", 16 * MIB) as crowded,
        arena_of(shm, "one", 16 * MIB) as lonely,
    ):
        held = []
        for index in range(READERS):
            client = stack.enter_context(shmclient.connect(path))
            for arena in (crowded, lonely)[: 2 if index == 0 else 1]:
                arena["put"] = data
                held.append(client.get(f"{arena.name}/put"))
        figures = paired(
            lambda: crowded.__setitem__("put", data),
            lambda: lonely.__setitem__("put", data),
            ROUNDS,
            20,
            calls=2000,
        )
        held.clear()
    title = f"arena: put 1 KiB with {READERS} readers; the floor has one"
    return row("arena/readers", title, *figures, 1.1, None)


def timed_each(names: Iterable[str], call: Callable[[str], object]) -> float:
    """Return the time of a call with each name, in microseconds for each."""
    count = 0
    began = time.perf_counter_ns()
    for count, name in enumerate(names, 1):  # noqa: B007
        call(name)
    return (time.perf_counter_ns() - began) / 1000 / count


def timed_items(values: Mapping[str, Any], call: Callable[[str, Any], object]) -> float:
    """Return the time of a call with each name and value, in microseconds for each."""
    began = time.perf_counter_ns()
    for name, value in values.items():
        call(name, value)
    return (time.perf_counter_ns() - began) / 1000 / len(values)


def resident() -> int:
    """Return the bytes that this process has in memory, what it shares included."""
    for line in Path("/proc/self/smaps_rollup").read_text("utf-8").splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * KIB
    raise RuntimeError("the kernel does not say how much memory this process has")
