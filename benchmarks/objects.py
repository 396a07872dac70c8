"""Arrays, objects and tensors on their way to a worker: by us, pickles, joblib's memmaps, and torch.

`benchmarks.values` measures them.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

import shmclient
from benchmarks.ways import Kind, Road, Sender, Takers, by_pipe, own_roads

NOTES = {
    "torch": "shares tensors of torch alone",
    "ipc": "has tables alone",
    "joblib": "maps arrays of NumPy alone",
}


def first_of(value: Any) -> float:
    """Read one number of an array or a tensor."""
    return float(value[0])


def sum_of(value: Any) -> float:
    """Read all of an array or a tensor."""
    return float(value.sum())


def by_files(sender: Sender, name: str, value: Any) -> Road:
    """Return the road of a file in memory that joblib writes, and maps in the worker."""

    def dump(to: str) -> str:
        import joblib

        joblib.dump(value, file := str(sender.folder / f"{name}-{to}"))
        return file

    again = dump("again")
    return Road("joblib", lambda: dump("new"), lambda: again)


def mapped_file(file: str) -> Any:
    """Return what a file of joblib's has."""
    import joblib

    return joblib.load(file, mmap_mode="r")


# --- arrays


def array_roads(sender: Sender, value: Any) -> list[Road]:
    """Return the roads of an array."""
    own = own_roads(sender, "array", value)
    return [*own, by_pipe(lambda: pickle.dumps(value, 5)), by_files(sender, "array", value)]


def array_takers(shm: shmclient.Client) -> Takers:
    """Return how a worker has an array."""
    return {
        "shmhost": shm.get,
        "arena": shm.get,
        "reference": lambda region: region.value(),
        "pipe": pickle.loads,
        "joblib": mapped_file,
    }


# --- objects


def object_roads(sender: Sender, value: Any) -> list[Road]:
    """Return the roads of an object."""
    own = own_roads(sender, "object", value, is_object=True)
    return [*own, by_pipe(lambda: pickle.dumps(value, 5)), by_files(sender, "object", value)]


def object_takers(shm: shmclient.Client) -> Takers:
    """Return how a worker has an object."""

    def named(name: str) -> Any:
        return shm.get_object(name, allow_pickle=True)

    return {
        "shmhost": named,
        "arena": named,
        "reference": lambda region: region.value().load(allow_pickle=True),
        "pipe": pickle.loads,
        "joblib": mapped_file,
    }


# --- tensors


def tensor_of(size: int) -> Any:
    """Return a tensor of torch; ImportError."""
    torch: Any = importlib.import_module("torch")
    return torch.ones(size // 8, dtype=torch.float64)


def tensor_roads(sender: Sender, value: Any) -> list[Road]:
    """Return the roads of a tensor."""
    importlib.import_module("torch.multiprocessing")  # which has every pipe of this process share tensors
    fresh, shared = [value], value.clone().share_memory_()

    def prepare() -> None:
        fresh[0] = value.clone()  # as the one before is shared now

    by_torch = Road("torch", lambda: fresh[0], lambda: shared, prepare)
    own = own_roads(sender, "tensor", value)
    return [*own, by_pipe(lambda: pickle.dumps(value, 5)), by_torch]


def tensor_takers(shm: shmclient.Client) -> Takers:
    """Return how a worker has a tensor."""
    get: Callable[[str], Any] = lambda name: shm.get(name, as_="torch")  # noqa: E731
    return {
        "shmhost": get,
        "arena": get,
        "reference": lambda region: region.value(as_="torch"),
        "pipe": pickle.loads,
        "torch": lambda tensor: tensor,
    }


def without(*roads: str) -> dict[str, str]:
    """Return why a kind cannot take these roads."""
    return {road: NOTES[road] for road in roads}


ARRAY = Kind(
    "array",
    "Array",
    lambda size: np.ones(size // 8),
    sum_of,
    first_of,
    array_roads,
    array_takers,
    without("torch", "ipc"),
)
OBJECT = Kind(
    "object",
    "Object with an array",
    lambda size: {"name": "x", "array": np.ones(size // 8)},
    lambda value: sum_of(value["array"]),
    lambda value: first_of(value["array"]),
    object_roads,
    object_takers,
    without("torch", "ipc"),
)
TENSOR = Kind(
    "tensor",
    "Tensor",
    tensor_of,
    sum_of,
    first_of,
    tensor_roads,
    tensor_takers,
    without("ipc", "joblib"),
)
