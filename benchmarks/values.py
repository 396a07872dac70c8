"""`python -m benchmarks.values`: the cost of a value on its way to a worker, beside other ways to send it.

A trip begins before the value is stored or pickled, and ends when the worker's answer is here. Of a new value
the worker reads all numbers, of the same once more it reads one. All roads take turns, in rounds; every
process is pinned. `--json FILE` keeps the run, and `make performance` writes the tables of docs/values.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shmclient
from benchmarks import machine, processes
from benchmarks.arrow import TABLE
from benchmarks.measure import summary
from benchmarks.objects import ARRAY, OBJECT, TENSOR
from benchmarks.page import values_section
from benchmarks.results import Row, Run, dump
from benchmarks.ways import Kind, Road, Sender

KINDS = (ARRAY, OBJECT, TENSOR, TABLE)
SAMPLES = {1 << 10: 100, 1 << 20: 20, 64 << 20: 3}  # in a round, by the bytes of the value
TITLES = {1 << 10: "1 KiB", 1 << 20: "1 MiB", 64 << 20: "64 MiB"}
ROUNDS = 5
# By the road: the distribution that has it.
DISTRIBUTIONS = {
    "shmhost": "shmhost",
    "arena": "shmhost",
    "reference": "shmhost",
    "pipe": "",
    "torch": "torch",
    "ipc": "pyarrow",
    "joblib": "joblib",
}


def worker(pipe: Any, path: str, cpu: int) -> None:
    """Have each value that comes, and answer with what was read of it, until None comes."""
    os.sched_setaffinity(0, {cpu})
    shm = shmclient.connect(path)
    kinds = {kind.name: kind for kind in KINDS}
    takers: dict[str, Any] = {}
    while (request := pipe.recv()) is not None:
        name, road, is_whole, message = request
        if message is None:
            message = pipe.recv_bytes()
        if name not in takers:
            takers[name] = kinds[name].takers(shm)
        value = takers[name][road](message)
        answer = (kinds[name].whole if is_whole else kinds[name].first)(value)
        del value, message, request
        pipe.send(answer)


@contextlib.contextmanager
def pinned(cpu: int) -> Iterator[None]:
    """Stay on a CPU for the length of a block."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def started(path: str, cpu: int) -> Iterator[Any]:
    """Run a worker; yield the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker, args=(theirs, path, cpu))
    process.start()
    theirs.close()
    try:
        yield ours
        ours.send(None)
        process.join(60)
    finally:
        process.kill()
        process.join()


def trip_us(pipe: Any, kind: Kind, road: Road, expected: float, *, is_new: bool) -> float:
    """Return the microseconds of a trip."""
    if is_new:
        road.prepare()
    began_ns = time.perf_counter_ns()
    message = road.new() if is_new else road.again()
    pipe.send((kind.name, road.key, is_new, None if road.is_packed else message))
    if road.is_packed:
        pipe.send_bytes(message)
    answer = pipe.recv()
    took_ns = time.perf_counter_ns() - began_ns
    assert math.isclose(answer, expected), f"{kind.name} by {road.key}: {answer}, not {expected}"
    return took_ns / 1000


def rows_of(pipe: Any, kind: Kind, size: int, sender: Sender, rounds: int, samples: int) -> Iterator[Row]:
    """Measure a new value of some bytes, and the same again, by all roads."""
    value = kind.make(size)
    roads = kind.roads(sender, value)
    for is_new, what in ((True, "new, read whole"), (False, "again, one number read")):
        expected = kind.whole(value) if is_new else kind.first(value)
        taken: dict[str, list[list[float]]] = {road.key: [] for road in roads}
        for _ in range(rounds + 1):  # the first one warms up
            for road in roads:
                trips = [trip_us(pipe, kind, road, expected, is_new=is_new) for _ in range(samples)]
                taken[road.key].append(trips)
        figures = {key: summary(times[1:]) for key, times in taken.items()}
        title = f"{kind.title}, {TITLES.get(size, size)}, {what}"
        yield Row(f"{kind.name}/{what.split(',')[0]}/{size}", title, figures=figures, notes=kind.notes)
    roads.clear()
    for info in sender.shm.list(kind.name):
        sender.shm.unlink(info.name)


def is_missing(road: str) -> bool:
    """Whether the library of a road is not installed."""
    distribution = DISTRIBUTIONS[road]
    return bool(distribution) and importlib.util.find_spec(distribution) is None


def measure(samples: dict[int, int], rounds: int, say: Callable[[str], object]) -> Run:
    """Measure all kinds whose libraries are here."""
    first, other = machine.cpus()
    absent = {road: "it is not installed" for road in DISTRIBUTIONS if is_missing(road)}
    present = {road: name for road, name in DISTRIBUTIONS.items() if road not in absent}
    versions = {road: machine.version(name) if name else "" for road, name in present.items()}
    run = Run(machine.today(), machine.describe(), versions, absent)
    with (
        pinned(first),
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="shm-values-") as folder,
        processes.host(folder, first) as (path, _),
        shmclient.connect(path) as shm,
        shm.arena("arena", size=(4 * max(samples)) + (16 << 20)) as arena,
        started(path, other) as pipe,
    ):
        sender = Sender(shm, arena, Path(folder))
        for kind in KINDS:
            try:
                kind.make(8)
            except ImportError:
                continue
            for size, count in samples.items():
                for row in rows_of(pipe, kind, size, sender, rounds, count):
                    run = run.with_rows(row)
                    say(row.title)
                arena.clear()
    return run


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of docs/values.md."""
    parser = argparse.ArgumentParser(prog="benchmarks.values", description=__doc__)
    parser.add_argument("--json", type=Path, help="keep the run in this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of all roads, in turn: 5")
    options = parser.parse_args(arguments)
    machine.end_on_sigterm()
    run = measure(SAMPLES, options.rounds, lambda title: print(f"measured {title}", file=sys.stderr))
    print(values_section(run))
    if options.json:
        options.json.write_text(dump(run), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
