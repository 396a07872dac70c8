"""`python -m benchmarks.arrow`: a table from one process to another, beside how that is done without shmhost.

Each way ends with a pyarrow.Table in the reader, which sums up each column of numbers. The ways take turns.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import shmclient
import shmhost
from benchmarks.machine import describe, today

ROUNDS = 7
PATH = f"/dev/shm/benchmark-{os.getpid()}.arrow"


def by_file(path: str) -> Any:
    """Return a table over a mapped IPC file."""
    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def read(pipe: Connection, socket_path: str, path: str) -> None:
    """Take tables by the way that the pipe says; answer with the seconds to have them, and to sum them up."""
    with shmclient.connect(socket_path) as shm:
        ways: dict[str, Callable[[], Any]] = {
            "shmhost": lambda: pa.table(shm.get("table")),
            "arena": lambda: pa.table(shm.get("arena/table")),
            "file": lambda: by_file(path),
            "pickle": lambda: pickle.loads(pipe.recv_bytes()),
        }
        while way := pipe.recv():
            began = time.perf_counter()
            table = ways[way]()
            received = time.perf_counter()
            sums = [pc.sum(column).as_py() for column in table.columns if pa.types.is_primitive(column.type)]
            pipe.send((received - began, time.perf_counter() - received, sums))
            del table


def write_file(table: Any) -> None:
    """Write an IPC file in memory, in place of the last one."""
    with pa.OSFile(f"{PATH}.new", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    os.replace(f"{PATH}.new", PATH)


def table_of(rows: int) -> Any:
    """Return a table of so many rows: two columns of numbers and one of text."""
    random = np.random.default_rng(1)
    names = pa.array([f"name {number}" for number in range(1000)])
    texts = names.take(pa.array(random.integers(0, 1000, rows)))
    return pa.table({"id": np.arange(rows), "x": random.random(rows), "name": texts})


def measure(table: Any) -> dict[str, list[tuple[float, float, float]]]:
    """Return for each way the seconds to write, to have the table, and to sum it up, of each round."""
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        reader = context.Process(target=read, args=(theirs, host.socket_path, PATH))
        reader.start()
        with shm.arena("arena", size=4 * table.nbytes + (1 << 20)) as arena:
            ways: dict[str, Callable[[], Any]] = {
                "shmhost": lambda: shm.put("table", table).close(),
                "arena": lambda: arena.put("table", table),
                "file": lambda: write_file(table),
                "pickle": lambda: None,
            }
            figures: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
            for _ in range(ROUNDS):
                for way, put in ways.items():
                    began = time.perf_counter()
                    put()
                    pipe.send(way)
                    if way == "pickle":
                        pipe.send_bytes(pickle.dumps(table, protocol=5))
                    written = time.perf_counter() - began
                    received, summed, _ = pipe.recv()
                    figures[way].append((written, received, summed))
        pipe.send("")
        reader.join()
    os.unlink(PATH)
    return figures


def main() -> None:
    """Print a table of medians for a small table and a large one, in ms."""
    print(f"{today()}, {', '.join(f'{key} {value}' for key, value in describe().items())}\n")
    print("| rows | way | write, ms | read, ms | sum up, ms |\n|---|---|---|---|---|")
    for rows in map(int, sys.argv[1:] or ("1000", "10000000")):
        for way, figures in measure(table_of(rows)).items():
            medians = (statistics.median(column) * 1e3 for column in zip(*figures[1:], strict=True))
            print(f"| {rows:,} | {way} | {' | '.join(f'{median:.3g}' for median in medians)} |")


if __name__ == "__main__":
    main()
