"""The same trip with Ray: `ray.put` on one node, `ray.get` by an actor of another. Run by Ray's own Python.

Both nodes are on this machine, and so is all of Ray's control. The last line is JSON, in microseconds.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time

ROUNDS = 3
STORE = 3 << 30  # bytes of each node


def main(sizes: list[int]) -> None:
    """Measure, and print."""
    ray, numpy = importlib.import_module("ray"), importlib.import_module("numpy")
    cluster_utils = importlib.import_module("ray.cluster_utils")
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE}
    )
    cluster.add_node(num_cpus=1, object_store_memory=STORE, resources={"other": 1})
    ray.init(address=cluster.address, log_to_driver=False)

    class Reader:
        def read(self, references: list[object]) -> int:
            return len(ray.get(references[0]))

    reader = ray.remote(resources={"other": 1})(Reader).remote()
    times: dict[int, list[list[float]]] = {}
    for size in sizes:
        value = numpy.frombuffer((os.urandom(min(size, 1 << 20)) * -(-size >> 20))[:size], "u1")
        samples = 20 if size <= 1 << 20 else 1
        for number in range(ROUNDS + 1):  # the first one warms up
            taken = []
            for _ in range(samples):
                began_s = time.perf_counter()
                reference = ray.put(value)
                count = ray.get(reader.read.remote([reference]))
                taken.append((time.perf_counter() - began_s) * 1e6)
                assert count == size
                del reference
            if number:
                times.setdefault(size, []).append(taken)
    print(json.dumps({"version": ray.__version__, "us": times}), flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]])
