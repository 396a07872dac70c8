"""The cost of an object on its way to a worker: pickled, by joblib's memmaps, and by a region.

    python -m benchmarks.objects

Prints the table of docs/objects.md. Each figure is the median of many trips to a worker and back, without
its start.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np

import shmclient
import shmhost

SIZES = (1 << 10, 1 << 20, 64 << 20)  # bytes
TRIPS = {1 << 10: 500, 1 << 20: 200, 64 << 20: 15}


def worker(pipe: Any, path: str) -> None:
    """Answer each object with the first number of its array, until None comes."""
    shm = shmclient.connect(path)
    while (message := pipe.recv()) is not None:
        pipe.send(float(_array_of(message, shm)[0]))


def _array_of(message: Any, shm: shmclient.Client) -> Any:
    kind, value = message
    if kind == "memmap":
        value = joblib.load(value, mmap_mode="r")
    elif kind == "name":
        value = shm.get_object(value, allow_pickle=True)
    return value["array"]


@contextmanager
def started(path: str) -> Iterator[Any]:
    """Run a worker; yield the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker, args=(theirs, path))
    process.start()
    yield ours
    ours.send(None)
    process.join()


def trips(size: int, shm: shmclient.Client, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what makes the message of each way, each time anew."""
    obj = {"name": "x", "array": np.ones(size // 8)}
    file = str(folder / "object")
    shm.put_object("again", obj).close()
    again = shmclient.reference(shm.get_object("again", allow_pickle=True))

    def dumped() -> Any:
        joblib.dump(obj, file)
        return "memmap", file

    def put() -> Any:
        shm.put_object("new", obj).close()
        return "name", "new"

    joblib.dump(obj, old := str(folder / "old"))
    return {
        "a new object: pickle through a pipe": lambda: ("pickle", obj),
        "a new object: joblib memmap": dumped,
        "a new object: `put_object`, name": put,
        "the same again: pickle through a pipe": lambda: ("pickle", obj),
        "the same again: joblib memmap": lambda: ("memmap", old),
        "the same again: name, `get_object`": lambda: ("name", "again"),
        "the same again: `reference`": lambda: ("reference", again),
    }


def measured(pipe: Any, message: Callable[[], Any], count: int) -> float:
    """Return the seconds of a trip: the median."""
    figures = []
    for _ in range(count):
        start = time.perf_counter()
        pipe.send(message())
        assert pipe.recv() == 1.0
        figures.append(time.perf_counter() - start)
    return statistics.median(figures)


def table() -> list[str]:
    """Measure all; return the lines of the table."""
    columns: list[dict[str, float]] = []
    with (
        shmhost.embedded() as host,
        shmclient.connect(host.socket_path) as shm,
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        started(host.socket_path) as pipe,
    ):
        for size in SIZES:
            ways = trips(size, shm, Path(folder))
            columns.append({way: measured(pipe, ways[way], TRIPS[size]) for way in ways})
    lines = ["| way | 1 KiB | 1 MiB | 64 MiB |", "|---|---|---|---|"]
    return lines + [
        f"| {way} | {' | '.join(_shown(column[way]) for column in columns)} |" for way in columns[0]
    ]


def _shown(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"


if __name__ == "__main__":
    print("\n".join(table()))
