"""Arrow tables on their way to a worker: by us, by pickles, and by IPC files in memory.

`benchmarks.values` measures them. Each road ends with a pyarrow.Table in the worker. pyarrow is imported when
it is used.
"""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np

import shmclient
from benchmarks.objects import without
from benchmarks.ways import Kind, Road, Sender, Takers, by_pipe, own_roads

ROW = 24  # bytes: two numbers, and a text of some eight


def table_of(size: int) -> Any:
    """Return a table of so many bytes: two columns of numbers and one of text; ImportError."""
    import pyarrow as pa

    rows, random = max(size // ROW, 1), np.random.default_rng(1)
    names = pa.array([f"name {number}" for number in range(1000)])
    texts = names.take(pa.array(random.integers(0, 1000, rows)))
    return pa.table({"id": np.arange(rows), "x": random.random(rows), "name": texts})


def sum_of(table: Any) -> float:
    """Read all numbers of a table."""
    import pyarrow.compute as pc

    return float(sum(pc.sum(table[name]).as_py() for name in ("id", "x")))


def first_of(table: Any) -> float:
    """Read one number of a table."""
    return float(table["x"][0].as_py())


def write_file(path: str, table: Any) -> str:
    """Write an IPC file in place of the last one; return its path."""
    import pyarrow as pa

    with pa.OSFile(f"{path}.new", "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    os.replace(f"{path}.new", path)
    return path


def by_file(path: str) -> Any:
    """Return a table over a mapped IPC file."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(path)).read_all()


def roads(sender: Sender, value: Any) -> list[Road]:
    """Return the roads of a table."""
    new, again = str(sender.folder / "table"), write_file(str(sender.folder / "again"), value)
    by_ipc = Road("ipc", lambda: write_file(new, value), lambda: again)
    return [*own_roads(sender, "table", value), by_pipe(lambda: pickle.dumps(value, 5)), by_ipc]


def takers(shm: shmclient.Client) -> Takers:
    """Return how a worker has a table."""
    import pyarrow as pa

    return {
        "shmhost": lambda name: pa.table(shm.get(name)),
        "arena": lambda name: pa.table(shm.get(name)),
        "reference": lambda region: pa.table(region.value()),
        "pipe": pickle.loads,
        "ipc": by_file,
    }


TABLE = Kind("table", "Arrow table", table_of, sum_of, first_of, roads, takers, without("torch", "joblib"))
