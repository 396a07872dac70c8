"""An object with large arrays is stored once, and workers use its arrays where they lie.

python examples/objects_and_workers.py
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from typing import Any

import numpy as np

import shmclient
import shmhost


@dataclasses.dataclass
class Model:
    """A class of the program's own."""

    name: str
    layers: list[np.ndarray[Any, Any]]


def address_and_sum(layer: np.ndarray[Any, Any]) -> tuple[int, float]:
    """Return where a worker has an array, and its sum."""
    return layer.ctypes.data, float(layer.sum())


def main() -> None:
    """Store a model, load it, and have workers sum its layers."""
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        model = Model("first", [np.full((1000, 100), number, "f4") for number in range(4)])
        shm.put_object("model", model)
        loaded = shm.get_object("model", allow_pickle=True)  # the layers lie in the region

        with multiprocessing.get_context("spawn").Pool(2) as pool:
            results = pool.map(address_and_sum, shmclient.reference(loaded.layers))
        same = [address for address, _ in results] == [layer.ctypes.data for layer in loaded.layers]
        print(f"{loaded.name}: {[total for _, total in results]}, at the same addresses: {same}")


if __name__ == "__main__":
    main()
