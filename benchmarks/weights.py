"""`python -m benchmarks.weights [BYTES]`: the weights of a model to four workers, beside what users do today.

Each way begins with a file in the page cache and ends with tensors of torch in four processes, which sum them
up. The ways take turns. The parent and the host run on the first CPU, the workers on the first and the last.
Memory is the sum of PSS of all these processes, less what it was before. Needs torch and safetensors.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import shmclient
from benchmarks.machine import cpus, describe, raise_descriptor_limit, today, version
from benchmarks.peers.team import memory_kib
from benchmarks.processes import host

WORKERS = 4
ROUNDS = 4  # the first of which does not count: it imports what is imported late
TENSORS = 64
TITLES = {
    "one": '`put` of the file, `get(as_="torch")`: one region',
    "each": "the same: a region for each of the 64 tensors",
    "send": "`torch.multiprocessing`: loaded once, sent to each",
    "load": "`torch.load` in each",
    "map": "`torch.load(mmap=True)` in each",
    "safe": "`safetensors.torch.load_file` in each",
}


class Figures(NamedTuple):
    """One round of one way: seconds to prepare, until all have it, and to sum up; MB of memory."""

    prepared_s: float
    had_s: float
    summed_s: float
    memory_mb: float


def work(pipe: Connection, socket_path: str, folder: str, cpu: int) -> None:
    """Be a worker: take tensors by the way that the pipe says, sum them up, and let go of them."""
    os.sched_setaffinity(0, {cpu})
    torch, safe = importlib.import_module("torch"), importlib.import_module("safetensors.torch")
    importlib.import_module("torch.multiprocessing")  # whose reductions unpickle tensors
    torch.set_num_threads(1)
    with shmclient.connect(socket_path) as shm:
        names = [f"weights/{number}" for number in range(TENSORS)]
        ways: dict[str, Callable[[], Any]] = {
            "one": lambda: shm.get("weights", as_="torch"),
            "each": lambda: dict(zip(names, shm.get_many(names, as_="torch"), strict=True)),
            "send": pipe.recv,
            "load": lambda: torch.load(f"{folder}/weights.pt"),
            "map": lambda: torch.load(f"{folder}/weights.pt", mmap=True),
            "safe": lambda: safe.load_file(f"{folder}/weights.safetensors"),
        }
        while way := pipe.recv():
            tensors = ways[way]()
            pipe.send(len(tensors))
            pipe.recv()
            pipe.send(sum(float(tensor.sum()) for tensor in tensors.values()))
            pipe.recv()  # it is measured
            del tensors
            gc.collect()
            pipe.send("free")


@contextmanager
def team(socket_path: str, folder: str) -> Iterator[tuple[list[Connection], list[int]]]:
    """Run the workers; yield the pipes to them, and their pids."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(WORKERS):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=work, args=(theirs, socket_path, folder, cpus()[number % 2])))
        processes[-1].start()
        pipes.append(ours)
    yield pipes, [process.pid or 0 for process in processes]
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("")
        process.join()


def prepare(way: str, shm: shmclient.Client, folder: str) -> Any:
    """Do what the parent does before the workers are asked; return what has to be sent."""
    file = f"{folder}/weights.safetensors"
    if way == "one":
        shm.put("weights", shmclient.read_safetensors(file)).close()
    elif way == "each":
        shmclient.put_safetensors(shm, file, "weights")
    elif way == "send":
        return importlib.import_module("safetensors.torch").load_file(file)
    return None


def asked(pipes: list[Connection], message: Any) -> tuple[float, list[Any]]:
    """Send a message to all workers; return the seconds until all have answered, and the answers."""
    began = time.perf_counter()
    for pipe in pipes:
        pipe.send(message)
    answers = [pipe.recv() for pipe in pipes]
    return time.perf_counter() - began, answers


def measured(
    way: str, shm: shmclient.Client, folder: str, pipes: list[Connection], pids: list[int]
) -> Figures:
    """Measure one way, once."""
    before = memory_kib(pids, "Pss")
    began = time.perf_counter()
    content = prepare(way, shm, folder)
    prepared_s = time.perf_counter() - began
    if content is None:
        had_s, counts = asked(pipes, way)
    else:
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send(way)
            pipe.send(content)
        counts = [pipe.recv() for pipe in pipes]
        had_s = time.perf_counter() - began
    summed_s, sums = asked(pipes, "sum")
    assert (counts, len(set(sums))) == ([TENSORS] * WORKERS, 1), (counts, sums)
    memory_mb = (memory_kib(pids, "Pss") - before) * 1024 / 1e6
    del content
    asked(pipes, "free")
    gc.collect()
    return Figures(prepared_s, had_s, summed_s, memory_mb)


def write_files(folder: str, size: int) -> None:
    """Write the weights, of so many bytes, as both kinds of files."""
    torch = importlib.import_module("torch")
    random = np.random.default_rng(1)
    count = size // TENSORS // 4
    tensors = {f"{number}": random.random(count, np.float32) for number in range(TENSORS)}
    shmclient.write_safetensors(f"{folder}/weights.safetensors", tensors)
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, f"{folder}/weights.pt")


def measure(size: int, rounds: int = ROUNDS) -> dict[str, list[Figures]]:
    """Return for each way the figures of each round but the first."""
    importlib.import_module("torch.multiprocessing")
    raise_descriptor_limit()
    first, _ = cpus()
    figures: dict[str, list[Figures]] = {way: [] for way in TITLES}
    with tempfile.TemporaryDirectory() as folder, host(folder, first) as (path, pid):
        write_files(folder, size)
        with team(path, folder) as (pipes, pids), shmclient.connect(path) as shm:
            os.sched_setaffinity(0, {first})
            for _ in range(rounds):
                for way, rows in figures.items():
                    rows.append(measured(way, shm, folder, pipes, [os.getpid(), pid, *pids]))
                    for info in shm.list():
                        shm.unlink(info.name)
    return {way: rows[1:] for way, rows in figures.items()}


def table(size: int, rounds: int = ROUNDS) -> list[str]:
    """Measure; return the lines of the table."""
    lines = [
        "| way | prepare, s | all four have it, s | sum up, s | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for way, rows in measure(size, rounds).items():
        prepared, had, summed, memory = (statistics.median(column) for column in zip(*rows, strict=True))
        seconds = " | ".join(f"{figure:.3g}" for figure in (prepared, had, summed))
        lines.append(f"| {TITLES[way]} | {seconds} | {memory:,.0f} |")
    return lines


def main() -> None:
    """Print the table for 1 GB, or so many bytes."""
    versions = {name: version(name) for name in ("torch", "safetensors", "numpy")}
    about = describe() | versions
    print(f"{today()}, {', '.join(f'{key} {value}' for key, value in about.items())}\n")
    print("\n".join(table(int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**9)))
    load = Path("/proc/loadavg").read_text("ascii").split()[0]
    print(f"\nload {load} after the run")


if __name__ == "__main__":
    main()
