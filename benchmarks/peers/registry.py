"""The peers, in the order of the tables. Loads a peer's module by its key, and nothing else."""

from __future__ import annotations

import importlib

from benchmarks.peers.base import Peer

MODULES = {
    "shmhost": "ours",
    "arena": "arena",
    "floor": "floor",
    "shared_memory": "stdlib",
    "posix_ipc": "posix",
    "iceoryx2": "iceoryx",
    "vineyard": "vineyard_",
    "pyarrow": "arrow",
    "redis": "redis_",
    "pyzmq": "zmq_",
}


def load(key: str) -> Peer:
    """Return a peer by its key."""
    peer: Peer = importlib.import_module(f"benchmarks.peers.{MODULES[key]}").PEER
    return peer
