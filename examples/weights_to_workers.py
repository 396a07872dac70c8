"""The weights of a model are stored once, and four workers use them where they lie: as tensors, or as arrays.

python examples/weights_to_workers.py [BYTES | FILE.safetensors]

Prints how long that took, and what it takes of memory: once the weights, whatever the number of workers.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import shmclient
import shmhost

WORKERS = 4
LAYERS = 32
SIZE = 10**9  # bytes, of the weights that are made here


def pss() -> int:
    """Return the memory of this process in bytes, of shared pages its part."""
    lines = Path("/proc/self/smaps_rollup").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def worker(pipe: Any, socket_path: str) -> None:
    """Get the weights, sum them up, and tell how long it took and what memory it takes when all have them."""
    library: Any = "torch" if importlib.util.find_spec("torch") else "numpy"
    with shmclient.connect(socket_path) as shm:
        shm.get("warm-up", as_=library)  # which imports the library
        before = pss()
        pipe.send("ready")
        pipe.recv()
        began = time.perf_counter()
        weights = shm.get("weights", as_=library)  # of the region's pages: nothing is read or copied
        had_s = time.perf_counter() - began
        total = sum(float(tensor.sum()) for tensor in weights.values())
        pipe.send((had_s, total))
        pipe.recv()
        pipe.send(pss() - before)
        pipe.recv()  # the others have looked as well


def file_of(size: int, folder: str) -> str:
    """Return a safetensors file with so many bytes of weights."""
    path = os.path.join(folder, "weights.safetensors")
    layer = np.ones((max(size // LAYERS // 4 // 64, 1), 64), np.float32)
    shmclient.write_safetensors(path, {f"layer {number}": layer for number in range(LAYERS)})
    return path


def share(path: str) -> None:
    """Store the tensors of a file, and have the workers use them."""
    size = os.path.getsize(path)
    context = multiprocessing.get_context("spawn")
    with shmhost.embedded() as host, shmclient.connect(host.socket_path) as shm:
        shm.put("warm-up", np.ones(1))
        pairs = [context.Pipe() for _ in range(WORKERS)]
        workers = [context.Process(target=worker, args=(pair[1], host.socket_path)) for pair in pairs]
        for process in workers:
            process.start()
        pipes = [pair[0] for pair in pairs]

        def ask(message: str) -> list[Any]:
            for pipe in pipes:
                pipe.send(message)
            return [pipe.recv() for pipe in pipes]

        assert [pipe.recv() for pipe in pipes] == ["ready"] * WORKERS
        began = time.perf_counter()
        shm.put("weights", shmclient.read_safetensors(path)).close()  # from the file's pages into one region
        print(f"{size / 1e6:,.0f} MB were stored in {time.perf_counter() - began:.2f} s")
        results = ask("get")
        print(
            f"the slowest of {WORKERS} workers had them in {max(had_s for had_s, _ in results) * 1e3:.1f} ms"
        )
        assert len({total for _, total in results}) == 1
        memory = ask("measure")
        print(f"together they take {sum(memory) / 1e6:,.0f} MB for them")
        for pipe in pipes:
            pipe.send("end")
        for process in workers:
            process.join()


def main() -> None:
    """Share a file, or weights that are made for it."""
    argument = sys.argv[1] if len(sys.argv) > 1 else str(SIZE)
    if not argument.isdigit():
        share(argument)
        return
    with tempfile.TemporaryDirectory() as folder:
        share(file_of(int(argument), folder))


if __name__ == "__main__":
    main()
